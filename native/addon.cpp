// What the addon gives to JavaScript. One addon is built for each variant of the prebuilt llama.cpp
// libraries; a process loads one of them.
#include "addon_data.h"
#include "assertions.h"
#include "context.h"
#include "gguf_check.h"
#include "log.h"
#include "model.h"
#include "promise.h"

#include "ggml-backend.h"
#include "llama.h"

namespace ps {

LiveDecoders & live_decoders() {
    thread_local LiveDecoders live;
    return live;
}

namespace {

// start(directory of the backend libraries, verbose): devices exist only after this.
Napi::Value start(const Napi::CallbackInfo & info) {
    log_install(info[1].As<Napi::Boolean>());
    static const bool loaded = [](const std::string & directory) {
        assertions_install();
        ggml_backend_load_all_from_path(directory.c_str());
        llama_backend_init();
        return true;
    }(info[0].As<Napi::String>());
    return Napi::Boolean::New(info.Env(), loaded);
}

const char * kind_of(ggml_backend_dev_t device) {
    switch (ggml_backend_dev_type(device)) {
    case GGML_BACKEND_DEVICE_TYPE_CPU: return "cpu";
    case GGML_BACKEND_DEVICE_TYPE_GPU:
    case GGML_BACKEND_DEVICE_TYPE_IGPU: return "gpu";
    default: return "accelerator";
    }
}

Napi::Value devices(const Napi::CallbackInfo & info) {
    const Napi::Env env = info.Env();
    Napi::Array out = Napi::Array::New(env);
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(device, &free, &total);
        Napi::Object entry = Napi::Object::New(env);
        entry.Set("name", ggml_backend_dev_name(device));
        entry.Set("description", ggml_backend_dev_description(device));
        entry.Set("kind", kind_of(device));
        entry.Set("registry", ggml_backend_reg_name(ggml_backend_dev_backend_reg(device)));
        entry.Set("freeBytes", (double)free);
        entry.Set("totalBytes", (double)total);
        out.Set((uint32_t)i, entry);
    }
    return out;
}

Napi::Value check(const Napi::CallbackInfo & info) {
    std::vector<std::string> paths;
    const auto list = info[0].As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) {
        paths.push_back(list.Get(i).As<Napi::String>());
    }
    return PromiseWorker<Nothing>::start(
        info.Env(),
        [paths] {
            check_gguf(paths);
            return Nothing{};
        },
        settle_nothing);
}

Napi::Value convert(const Napi::CallbackInfo & info) {
    const std::string from = info[0].As<Napi::String>();
    const std::string to = info[1].As<Napi::String>();
    const int32_t n_threads = info[2].As<Napi::Number>().Int32Value();
    return PromiseWorker<Nothing>::start(
        info.Env(),
        [=] {
            convert_to_f32(from, to, n_threads);
            return Nothing{};
        },
        settle_nothing);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
    env.SetInstanceData(new AddonData);
    env.AddCleanupHook([] { live_decoders().abort_all(); });
    Model::define(env);
    Context::define(env);
    exports.Set("start", Napi::Function::New(env, start));
    exports.Set("devices", Napi::Function::New(env, devices));
    exports.Set("check", Napi::Function::New(env, check));
    exports.Set("load", Napi::Function::New(env, Model::load));
    exports.Set("convert", Napi::Function::New(env, convert));
    return exports;
}

} // namespace

} // namespace ps

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return ps::init(env, exports); }

NODE_API_MODULE(patchscopes, init_addon)
