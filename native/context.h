// The JavaScript class of a context: the one owner of a Decoder, which does one thing at a time.
#pragma once

#include "decoder.h"

#include <napi.h>

namespace ps {

class Context : public Napi::ObjectWrap<Context> {
public:
    static void define(Napi::Env env);
    static Napi::Object wrap(Napi::Env env, std::shared_ptr<Decoder> decoder);

    explicit Context(const Napi::CallbackInfo & info);

private:
    Napi::Value describe(const Napi::CallbackInfo & info);
    Napi::Value decode(const Napi::CallbackInfo & info);
    Napi::Value encode(const Napi::CallbackInfo & info);
    Napi::Value lens(const Napi::CallbackInfo & info);
    void clear(const Napi::CallbackInfo & info);
    void copy_sequence(const Napi::CallbackInfo & info);
    void remove_sequence(const Napi::CallbackInfo & info);
    void close(const Napi::CallbackInfo & info);

    // Throws unless the context is open and at rest.
    std::shared_ptr<Decoder> idle(Napi::Env env) const;
    template <class Result> Napi::Promise run(Napi::Env env, std::function<Result(Decoder &)> work,
                                              std::function<Napi::Value(Napi::Env, Result &)> settle);

    std::shared_ptr<Decoder> decoder_; // a decode under way shares it
    // until the last call settles; touched on the JavaScript thread only
    std::shared_ptr<bool> busy_ = std::make_shared<bool>(false);
};

} // namespace ps
