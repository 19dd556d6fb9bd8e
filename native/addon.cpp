// What the addon gives to JavaScript. One addon is built for each variant of the prebuilt llama.cpp
// libraries; a process loads one of them.
#include "addon_data.h"
#include "arrays.h"
#include "assertions.h"
#include "context.h"
#include "device_list.h"
#include "gguf_check.h"
#include "gguf_header.h"
#include "kernels.h"
#include "least_squares_object.h"
#include "log.h"
#include "mlp_object.h"
#include "model.h"
#include "model_handle.h"
#include "promise.h"
#include "rpc.h"

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

// This machine's devices.
Napi::Value devices(const Napi::CallbackInfo & info) {
    std::vector<DeviceInfo> own;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (!is_of_worker(device)) {
            own.push_back(describe_device(device));
        }
    }
    return to_value(info.Env(), own);
}

Napi::Value check(const Napi::CallbackInfo & info) {
    const std::vector<std::string> paths = to_strings(info[0]);
    return PromiseWorker<Nothing>::start(
        info.Env(),
        [paths] {
            check_gguf(paths);
            return Nothing{};
        },
        settle_nothing);
}

Napi::Value convert_file(const Napi::CallbackInfo & info) {
    const std::string from = info[0].As<Napi::String>();
    const std::string to = info[1].As<Napi::String>();
    const std::string type = info[2].As<Napi::String>();
    const int32_t n_threads = info[3].As<Napi::Number>().Int32Value();
    return PromiseWorker<int32_t>::start(
        info.Env(), [=] { return convert(from, to, type, n_threads); },
        [](Napi::Env env, int32_t & fallbacks) -> Napi::Value { return Napi::Number::New(env, fallbacks); });
}

Napi::Value cost_of_matrix(const Napi::CallbackInfo & info) {
    std::vector<int64_t> shape;
    const auto list = info[1].As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) {
        shape.push_back(list.Get(i).As<Napi::Number>().Int64Value());
    }
    const MatrixCost cost = matrix_cost(info[0].As<Napi::String>(), shape);
    Napi::Object out = Napi::Object::New(info.Env());
    out.Set("bytes", (double)cost.bytes);
    out.Set("isRepacked", cost.is_repacked);
    return out;
}

Napi::Value features(const Napi::CallbackInfo & info) {
    Napi::Array out = Napi::Array::New(info.Env());
    for (const std::string & name : cpu_features()) {
        out.Set(out.Length(), name);
    }
    return out;
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
    exports.Set("convert", Napi::Function::New(env, convert_file));
    exports.Set("header", Napi::Function::New(env, read_header));
    exports.Set("matrixCost", Napi::Function::New(env, cost_of_matrix));
    exports.Set("cpuFeatures", Napi::Function::New(env, features));
    define_rpc(env, exports);
    define_least_squares(env, exports);
    define_mlp(env, exports);
    return exports;
}

} // namespace

} // namespace ps

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return ps::init(env, exports); }

NODE_API_MODULE(patchscopes, init_addon)
