#include "model_handle.h"

#include "assertions.h"
#include "error.h"
#include "log.h"

#include <algorithm>
#include <cctype>
#include <regex>

namespace ps {

ModelHandle::~ModelHandle() { llama_model_free(model); }

int ModelHandle::n_layer() const {
    const std::string decoder_blocks =
        n_encoder_layer() > 0 ? metadata(metadata("general.architecture") + ".decoder_block_count") : "";
    return decoder_blocks.empty() ? llama_model_n_layer(model) : std::stoi(decoder_blocks);
}

int ModelHandle::n_encoder_layer() const {
    return llama_model_has_encoder(model) ? llama_model_n_layer(model) : 0;
}

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
    // llama.cpp's switch adds the end token of some models too: a prompt goes on, so it is taken off, but
    // what an encoder reads is whole
    const llama_token end = llama_vocab_eos(vocab());
    if (!llama_model_has_encoder(model) && bos && llama_vocab_get_add_eos(vocab()) && !tokens.empty() &&
        tokens.back() == end) {
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

std::shared_ptr<ModelHandle> load_model(const std::string & path, const Placement & placement) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = placement.n_gpu_layers;
    params.vocab_only = placement.vocab_only;
    // the other split modes end the process where states are read
    params.split_mode = placement.split_by_layer ? LLAMA_SPLIT_MODE_LAYER : LLAMA_SPLIT_MODE_NONE;
    std::vector<ggml_backend_dev_t> devices;
    if (placement.n_gpu_layers > 0) {
        for (const std::string & name : placement.devices) {
            devices.push_back(ggml_backend_dev_by_name(name.c_str()));
            if (devices.back() == nullptr) {
                throw Error("no_device", "There is no device " + name + " in this process");
            }
        }
    }
    // given even where it is empty: llama.cpp would use GPU devices for no layers too
    devices.push_back(nullptr);
    params.devices = devices.data();
    log_take();
    auto handle = std::make_shared<ModelHandle>();
    const AssertionGuard guard;
    handle->model = llama_model_load_from_file(path.c_str(), params);
    if (handle->model == nullptr) {
        throw Error("bad_model", with_log("The model " + path + " could not be loaded"));
    }
    return handle;
}

void add_adapter(ModelHandle & model, const std::string & path,
                 const std::vector<std::string> & model_paths) {
    Adapter adapter = read_adapter(path, model_paths);
    log_take();
    const AssertionGuard guard;
    adapter.lora = llama_adapter_lora_init(model.model, path.c_str());
    if (adapter.lora == nullptr) {
        throw Error("bad_model", with_log("The LoRA " + path + " could not be loaded"));
    }
    model.adapters.push_back(std::move(adapter));
}

namespace {

// llama.cpp's own name of a file type as people write it: "Q4_K - Medium" -> q4_k_m, "all F32" -> f32,
// "IQ4_NL - 4.5 bpw" -> iq4_nl.
std::string written_name(llama_ftype ftype) {
    const std::string name = llama_ftype_name(ftype);
    const size_t start = name.rfind("all ", 0) == 0 ? 4 : 0;
    const size_t end = name.find(' ', start);
    std::string written = name.substr(start, end - start);
    for (const char * size : {"Small", "Medium", "Large"}) {
        if (end != std::string::npos && name.substr(end) == std::string(" - ") + size) {
            written += std::string("_") + size[0];
        }
    }
    std::transform(written.begin(), written.end(), written.begin(), [](char c) { return std::tolower(c); });
    return written;
}

// A name without a size means the medium one, as in llama.cpp's own tool.
llama_ftype file_type(const std::string & name) {
    for (int i = 0; i < LLAMA_FTYPE_GUESSED; ++i) {
        const std::string written = written_name((llama_ftype)i);
        if (written == name || written == name + "_m") {
            return (llama_ftype)i;
        }
    }
    throw Error("bad_input", "llama.cpp has no file type " + name + ".");
}

// llama.cpp counts them in its log alone.
int32_t fallbacks_in(const std::string & log) {
    std::smatch match;
    return std::regex_search(log, match, std::regex(R"((\d+) of \d+ tensor\(s\) required fallback)"))
               ? std::stoi(match[1])
               : 0;
}

} // namespace

int32_t convert(const std::string & from, const std::string & to, const std::string & type,
                int32_t n_threads) {
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.nthread = n_threads;
    params.ftype = file_type(type);
    params.allow_requantize = true;
    log_take();
    const AssertionGuard guard;
    if (llama_model_quantize(from.c_str(), to.c_str(), &params) != 0) {
        throw Error("bad_model", with_log("The model " + from + " could not be converted"));
    }
    return fallbacks_in(log_take());
}

} // namespace ps
