#include "device_list.h"

namespace ps {

namespace {

const char * kind_of(ggml_backend_dev_t device) {
    switch (ggml_backend_dev_type(device)) {
    case GGML_BACKEND_DEVICE_TYPE_CPU: return "cpu";
    case GGML_BACKEND_DEVICE_TYPE_GPU: return "gpu";
    case GGML_BACKEND_DEVICE_TYPE_IGPU: return "integrated";
    default: return "accelerator";
    }
}

} // namespace

DeviceInfo describe_device(ggml_backend_dev_t device) {
    DeviceInfo info;
    info.name = ggml_backend_dev_name(device);
    info.description = ggml_backend_dev_description(device);
    info.kind = kind_of(device);
    info.registry = ggml_backend_reg_name(ggml_backend_dev_backend_reg(device));
    ggml_backend_dev_memory(device, &info.free_bytes, &info.total_bytes);
    return info;
}

Napi::Value to_value(Napi::Env env, const std::vector<DeviceInfo> & devices) {
    Napi::Array out = Napi::Array::New(env);
    for (const DeviceInfo & device : devices) {
        Napi::Object entry = Napi::Object::New(env);
        entry.Set("name", device.name);
        entry.Set("description", device.description);
        entry.Set("kind", device.kind);
        entry.Set("registry", device.registry);
        entry.Set("freeBytes", (double)device.free_bytes);
        entry.Set("totalBytes", (double)device.total_bytes);
        out.Set(out.Length(), entry);
    }
    return out;
}

} // namespace ps
