#include "model_handle.h"

#include "assertions.h"
#include "error.h"
#include "log.h"

#include <algorithm>

namespace ps {

ModelHandle::~ModelHandle() { llama_model_free(model); }

std::string ModelHandle::metadata(const std::string & key) const {
    const int32_t length = llama_model_meta_val_str(model, key.c_str(), nullptr, 0);
    if (length < 0) {
        return "";
    }
    std::string value(length + 1, '\0');
    llama_model_meta_val_str(model, key.c_str(), value.data(), value.size());
    value.resize(length);
    return value;
}

std::vector<llama_token> ModelHandle::tokenize(const std::string & text, bool bos, bool special) const {
    const AssertionGuard guard;
    std::vector<llama_token> tokens(text.size() + 8);
    while (true) {
        const int32_t n = llama_tokenize(vocab(), text.data(), (int32_t)text.size(), tokens.data(),
                                         (int32_t)tokens.size(), bos, special);
        if (n == INT32_MIN) {
            throw Error("bad_input", "The text is too long to be split into tokens.");
        }
        tokens.resize(std::abs(n));
        if (n >= 0) {
            break;
        }
    }
    // llama.cpp's switch adds the end token of some models too: a prompt goes on, so it is taken off
    const llama_token end = llama_vocab_eos(vocab());
    if (bos && llama_vocab_get_add_eos(vocab()) && !tokens.empty() && tokens.back() == end) {
        tokens.pop_back();
    }
    return tokens;
}

std::string ModelHandle::token_bytes(llama_token token) const {
    const AssertionGuard guard;
    std::string bytes(64, '\0');
    int32_t n = llama_token_to_piece(vocab(), token, bytes.data(), (int32_t)bytes.size(), 0, true);
    if (n < 0) {
        bytes.resize(-n);
        n = llama_token_to_piece(vocab(), token, bytes.data(), (int32_t)bytes.size(), 0, true);
    }
    bytes.resize(std::max(0, n));
    return bytes;
}

std::shared_ptr<ModelHandle> load_model(const std::string & path, int32_t n_gpu_layers) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = n_gpu_layers;
    // an empty list keeps llama.cpp off devices it would use even for no layers
    ggml_backend_dev_t no_devices[] = {nullptr};
    if (n_gpu_layers == 0) {
        params.devices = no_devices;
    }
    log_take();
    auto handle = std::make_shared<ModelHandle>();
    const AssertionGuard guard;
    handle->model = llama_model_load_from_file(path.c_str(), params);
    if (handle->model == nullptr) {
        throw Error("bad_model", with_log("The model " + path + " could not be loaded"));
    }
    return handle;
}

void convert_to_f32(const std::string & from, const std::string & to, int32_t n_threads) {
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.nthread = n_threads;
    params.ftype = LLAMA_FTYPE_ALL_F32;
    params.allow_requantize = true;
    log_take();
    const AssertionGuard guard;
    if (llama_model_quantize(from.c_str(), to.c_str(), &params) != 0) {
        throw Error("bad_model", with_log("The model " + from + " could not be converted"));
    }
}

} // namespace ps
