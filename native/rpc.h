// Devices of workers on other machines, and this machine's devices for others: llama.cpp's RPC backend, which
// is a plug-in.
#pragma once

#include "ggml-backend.h"

#include <napi.h>

namespace ps {

// Anything asked of such a device that its name does not tell ends the process where its worker is gone.
bool is_of_worker(ggml_backend_dev_t device);

// addWorkers(plug-in's file, addresses) -> Promise of their devices, which join the registry. The process
// ends where an address can't be reached or speaks another version of the protocol: the caller has tried
// them. serve(plug-in's file, address, threads, names of devices) -> Promise: rejected where the address
// can't be listened on, else for ever. rpcVersion: major and minor number of the protocol.
void define_rpc(Napi::Env env, Napi::Object exports);

} // namespace ps
