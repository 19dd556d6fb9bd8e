// The JavaScript class of a loaded model.
#pragma once

#include "model_handle.h"

#include <napi.h>

namespace ps {

class Model : public Napi::ObjectWrap<Model> {
public:
    static void define(Napi::Env env);
    // load(path, gpuLayers) -> Promise<Model>
    static Napi::Value load(const Napi::CallbackInfo & info);

    explicit Model(const Napi::CallbackInfo & info);

private:
    Napi::Value describe(const Napi::CallbackInfo & info);
    Napi::Value tokenize(const Napi::CallbackInfo & info);
    Napi::Value token_bytes(const Napi::CallbackInfo & info);
    Napi::Value is_end_of_text(const Napi::CallbackInfo & info);
    Napi::Value add_adapter(const Napi::CallbackInfo & info);
    Napi::Value create_context(const Napi::CallbackInfo & info);
    void close(const Napi::CallbackInfo & info);

    const ModelHandle & open(Napi::Env env) const;

    std::shared_ptr<ModelHandle> handle_; // contexts share it: it is freed after the last of them
};

} // namespace ps
