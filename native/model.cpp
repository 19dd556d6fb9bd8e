#include "model.h"

#include "addon_data.h"
#include "arrays.h"
#include "context.h"
#include "gguf_check.h"
#include "promise.h"

#include <algorithm>
#include <utility>

namespace ps {

namespace {

using Handle = std::shared_ptr<ModelHandle>;

ggml_type kv_type(Napi::Env env, const std::string & name) {
    for (ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1,
                           GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL}) {
        if (name == ggml_type_name(type)) {
            return type;
        }
    }
    throw coded_error(env, "bad_input",
                      "There is no K/V type " + name + "; take f32, f16, bf16, q8_0 or q4_0.");
}

} // namespace

void Model::define(Napi::Env env) {
    addon_data(env).model_class =
        Napi::Persistent(DefineClass(env, "Model",
                                     {
                                         InstanceMethod<&Model::describe>("describe"),
                                         InstanceMethod<&Model::tokenize>("tokenize"),
                                         InstanceMethod<&Model::token_bytes>("tokenBytes"),
                                         InstanceMethod<&Model::is_end_of_text>("isEndOfText"),
                                         InstanceMethod<&Model::add_adapter>("addAdapter"),
                                         InstanceMethod<&Model::create_context>("createContext"),
                                         InstanceMethod<&Model::close>("close"),
                                     }));
}

Napi::Value Model::load(const Napi::CallbackInfo & info) {
    const std::string path = info[0].As<Napi::String>();
    const auto options = info[1].As<Napi::Object>();
    Placement placement;
    placement.n_gpu_layers = options.Get("gpuLayers").As<Napi::Number>();
    placement.split_by_layer = options.Get("splitMode").As<Napi::String>().Utf8Value() == "layer";
    placement.vocab_only = options.Get("vocabularyOnly").ToBoolean();
    placement.devices = to_strings(options.Get("devices"));
    return PromiseWorker<Handle>::start(
        info.Env(), [path, placement] { return load_model(path, placement); },
        [](Napi::Env env, Handle & handle) -> Napi::Value {
            return addon_data(env).model_class.New({Napi::External<Handle>::New(env, &handle)});
        });
}

Model::Model(const Napi::CallbackInfo & info) : Napi::ObjectWrap<Model>(info) {
    if (!info[0].IsExternal()) {
        throw Napi::TypeError::New(info.Env(), "A model is made by load().");
    }
    handle_ = *info[0].As<Napi::External<Handle>>().Data();
}

const ModelHandle & Model::open(Napi::Env env) const {
    if (handle_ == nullptr) {
        throw coded_error(env, "closed", "The model was closed.");
    }
    return *handle_;
}

Napi::Value Model::describe(const Napi::CallbackInfo & info) {
    const Napi::Env env = info.Env();
    const ModelHandle & handle = open(env);
    const llama_model * model = handle.model;
    Napi::Object out = Napi::Object::New(env);
    out.Set("architecture", handle.metadata("general.architecture"));
    out.Set("name", handle.metadata("general.name"));
    out.Set("quantization", llama_ftype_name(llama_model_ftype(model)));
    out.Set("layerCount", handle.n_layer());
    out.Set("encoderLayerCount", handle.n_encoder_layer());
    out.Set("embeddingSize", llama_model_n_embd(model));
    out.Set("vocabularySize", llama_vocab_n_tokens(handle.vocab()));
    out.Set("trainedContext", llama_model_n_ctx_train(model));
    out.Set("hasPositionTable", llama_model_rope_type(model) == LLAMA_ROPE_TYPE_NONE);
    out.Set("addsBos", llama_vocab_get_add_bos(handle.vocab()));
    out.Set("bosToken", llama_vocab_bos(handle.vocab()));
    out.Set("eosToken", llama_vocab_eos(handle.vocab()));
    out.Set("padToken", llama_vocab_pad(handle.vocab()));
    out.Set("hasEncoder", llama_model_has_encoder(model));
    out.Set("hasDecoder", llama_model_has_decoder(model));
    out.Set("decoderStartToken", llama_model_decoder_start_token(model));
    out.Set("isRecurrent", llama_model_is_recurrent(model) || llama_model_is_hybrid(model));
    out.Set("isDiffusion", llama_model_is_diffusion(model));
    const char * chat_template = llama_model_chat_template(model, nullptr);
    out.Set("chatTemplate", chat_template == nullptr ? env.Null() : Napi::String::New(env, chat_template));
    return out;
}

Napi::Value Model::tokenize(const Napi::CallbackInfo & info) {
    const Napi::Env env = info.Env();
    try {
        const std::vector<llama_token> tokens = open(env).tokenize(
            info[0].As<Napi::String>(), info[1].As<Napi::Boolean>(), info[2].As<Napi::Boolean>());
        Napi::Int32Array out = Napi::Int32Array::New(env, tokens.size());
        std::copy(tokens.begin(), tokens.end(), out.Data());
        return out;
    } catch (const Error & error) {
        throw coded_error(env, error.code, error.what());
    } catch (const Napi::Error &) {
        throw;
    } catch (const std::exception & error) {
        throw coded_error(env, "bad_model",
                          std::string("The model's vocabulary can't split this text: ") + error.what());
    }
}

Napi::Value Model::token_bytes(const Napi::CallbackInfo & info) {
    const Napi::Env env = info.Env();
    const ModelHandle & handle = open(env);
    const int32_t token = info[0].As<Napi::Number>().Int32Value();
    if (token < 0 || token >= llama_vocab_n_tokens(handle.vocab())) {
        throw coded_error(env, "bad_input",
                          "Token id " + std::to_string(token) + " is outside the vocabulary.");
    }
    try {
        const std::string bytes = handle.token_bytes(token);
        return Napi::Buffer<char>::Copy(env, bytes.data(), bytes.size());
    } catch (const Error & error) {
        throw coded_error(env, error.code, error.what());
    } catch (const std::exception & error) {
        throw coded_error(env, "bad_model",
                          std::string("The model's vocabulary can't write this token: ") + error.what());
    }
}

Napi::Value Model::is_end_of_text(const Napi::CallbackInfo & info) {
    return Napi::Boolean::New(
        info.Env(), llama_vocab_is_eog(open(info.Env()).vocab(), info[0].As<Napi::Number>().Int32Value()));
}

Napi::Value Model::add_adapter(const Napi::CallbackInfo & info) {
    open(info.Env());
    const std::string path = info[0].As<Napi::String>();
    const std::vector<std::string> model_paths = to_strings(info[1]);
    return PromiseWorker<const Adapter *>::start(
        info.Env(),
        [handle = handle_, path, model_paths] {
            ps::add_adapter(*handle, path, model_paths);
            return &std::as_const(handle->adapters.back());
        },
        [handle = handle_](Napi::Env env, const Adapter *& adapter) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("index", (double)handle->adapters.size() - 1);
            out.Set("alpha", adapter->alpha);
            return out;
        });
}

Napi::Value Model::create_context(const Napi::CallbackInfo & info) {
    const Napi::Env env = info.Env();
    open(env);
    const auto options = info[0].As<Napi::Object>();
    const auto number = [&](const char * key) { return options.Get(key).As<Napi::Number>().Uint32Value(); };
    DecoderOptions decoder;
    decoder.n_ctx = number("cells");
    decoder.streams = options.Get("streams").ToBoolean();
    decoder.n_batch = number("batchTokens");
    decoder.n_sequences = number("sequences");
    decoder.n_outputs = number("outputs");
    decoder.n_threads = (int32_t)number("threads");
    decoder.flash_attention = options.Get("flashAttention").As<Napi::Boolean>();
    decoder.type_k = kv_type(env, options.Get("typeK").As<Napi::String>());
    decoder.type_v = kv_type(env, options.Get("typeV").As<Napi::String>());
    if (options.Has("adapter")) {
        const auto adapter = options.Get("adapter").As<Napi::Object>();
        decoder.adapter = &handle_->adapters.at(adapter.Get("index").As<Napi::Number>().Uint32Value());
        decoder.adapter_scale = adapter.Get("scale").As<Napi::Number>().FloatValue();
    }
    return PromiseWorker<std::shared_ptr<Decoder>>::start(
        env, [handle = handle_, decoder] { return std::make_shared<Decoder>(handle, decoder); },
        [](Napi::Env env, std::shared_ptr<Decoder> & made) -> Napi::Value {
            return Context::wrap(env, made);
        });
}

void Model::close(const Napi::CallbackInfo &) { handle_.reset(); }

} // namespace ps
