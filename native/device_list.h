// What is told of a device of ggml's registry.
#pragma once

#include "ggml-backend.h"

#include <napi.h>

#include <string>
#include <vector>

namespace ps {

struct DeviceInfo {
    std::string name;
    std::string description;
    std::string kind; // cpu, gpu, integrated or accelerator
    std::string registry;
    size_t free_bytes = 0;
    size_t total_bytes = 0;
};

// Asks a worker for its memory, where the device is a worker's.
DeviceInfo describe_device(ggml_backend_dev_t device);

Napi::Value to_value(Napi::Env env, const std::vector<DeviceInfo> & devices);

} // namespace ps
