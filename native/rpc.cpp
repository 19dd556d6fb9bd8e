#include "rpc.h"

#include "assertions.h"
#include "device_list.h"
#include "error.h"
#include "log.h"
#include "promise.h"

#include "ggml-backend.h"
#include "ggml-rpc.h"

#include <cstdio>
#include <cstring>
#include <mutex>
#include <set>
#include <unistd.h>

namespace ps {

namespace {

std::mutex mutex;
std::set<std::string> workers;

std::vector<std::string> strings(const Napi::Value & list) {
    std::vector<std::string> out;
    const auto array = list.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); ++i) {
        out.push_back(array.Get(i).As<Napi::String>());
    }
    return out;
}

// ggml ends the process where a worker is lost. That is no bug: it takes a sentence and no trace. What is in
// the store was written before.
void look_for_lost_worker(const char * message) {
    if (std::strstr(message, "ggml-rpc") == nullptr) {
        return;
    }
    std::string known;
    {
        std::lock_guard<std::mutex> lock(mutex);
        for (const std::string & worker : workers) {
            known += (known.empty() ? "" : " or ") + worker;
        }
    }
    if (known.empty()) {
        return; // this is a worker itself
    }
    std::fprintf(
        stderr,
        "%spatchscopes: The worker at %s was lost in the middle of the work: what was stored before is "
        "kept; start the worker and then this command again, a patch with --resume.\n",
        isatty(STDERR_FILENO) ? "\n" : "", known.c_str());
    _exit(1);
}

ggml_backend_reg_t load_plugin(const std::string & file) {
    static const ggml_backend_reg_t plugin = [&] {
        log_take();
        ggml_backend_reg_t loaded = ggml_backend_load(file.c_str());
        if (loaded == nullptr) {
            throw Error("no_device", with_log("llama.cpp's RPC backend could not be loaded"));
        }
        assertions_watch(look_for_lost_worker);
        return loaded;
    }();
    return plugin;
}

template <class Function> Function function_of(ggml_backend_reg_t plugin, const char * name) {
    void * found = ggml_backend_reg_get_proc_address(plugin, name);
    if (found == nullptr) {
        throw Error("no_device", std::string("llama.cpp's RPC backend has no function ") + name + ".");
    }
    return reinterpret_cast<Function>(found);
}

Napi::Value add_workers(const Napi::CallbackInfo & info) {
    const std::string file = info[0].As<Napi::String>();
    return PromiseWorker<std::vector<DeviceInfo>>::start(
        info.Env(),
        [file, addresses = strings(info[1])] {
            ggml_backend_reg_t plugin = load_plugin(file);
            const auto add =
                function_of<decltype(&ggml_backend_rpc_add_server)>(plugin, "ggml_backend_rpc_add_server");
            std::vector<DeviceInfo> devices;
            for (const std::string & address : addresses) {
                {
                    std::lock_guard<std::mutex> lock(mutex); // not held while ggml may end the process
                    workers.insert(address);
                }
                ggml_backend_reg_t worker = add(address.c_str());
                if (worker == nullptr) {
                    throw Error("no_device", "The worker at " + address + " has no devices.");
                }
                ggml_backend_register(worker);
                for (size_t i = 0; i < ggml_backend_reg_dev_count(worker); ++i) {
                    devices.push_back(describe_device(ggml_backend_reg_dev_get(worker, i)));
                }
            }
            return devices;
        },
        [](Napi::Env env, std::vector<DeviceInfo> & devices) { return to_value(env, devices); });
}

Napi::Value serve(const Napi::CallbackInfo & info) {
    const std::string file = info[0].As<Napi::String>();
    const std::string address = info[1].As<Napi::String>();
    const uint32_t n_threads = info[2].As<Napi::Number>();
    return PromiseWorker<Nothing>::start(
        info.Env(),
        [file, address, n_threads, names = strings(info[3])]() -> Nothing {
            ggml_backend_reg_t plugin = load_plugin(file);
            const auto start = function_of<decltype(&ggml_backend_rpc_start_server)>(
                plugin, "ggml_backend_rpc_start_server");
            std::vector<ggml_backend_dev_t> devices;
            for (const std::string & name : names) {
                devices.push_back(ggml_backend_dev_by_name(name.c_str()));
                if (devices.back() == nullptr) {
                    throw Error("no_device", "There is no device " + name + ".");
                }
            }
            // ggml's server talks to stdout, which belongs to our data
            if (FILE * nowhere = std::fopen("/dev/null", "w")) {
                stdout = nowhere;
            }
            start(address.c_str(), nullptr, n_threads, devices.size(), devices.data());
            throw Error("no_device", "The address " + address + " could not be listened on.");
        },
        settle_nothing);
}

} // namespace

bool is_of_worker(ggml_backend_dev_t device) {
    return std::strcmp(ggml_backend_reg_name(ggml_backend_dev_backend_reg(device)), "RPC") == 0;
}

void define_rpc(Napi::Env env, Napi::Object exports) {
    exports.Set("addWorkers", Napi::Function::New(env, add_workers));
    exports.Set("serve", Napi::Function::New(env, serve));
    Napi::Array version = Napi::Array::New(env);
    version.Set(0u, RPC_PROTO_MAJOR_VERSION);
    version.Set(1u, RPC_PROTO_MINOR_VERSION);
    exports.Set("rpcVersion", version);
}

} // namespace ps
