#include "gguf_check.h"

#include "assertions.h"
#include "error.h"
#include "gguf_file.h"
#include "log.h"

#include "llama.h"

#include <memory>
#include <string_view>
#include <unordered_set>

namespace ps {

namespace {

constexpr int64_t MAX_LAYERS = 512; // llama.cpp's own bounds
constexpr int64_t MAX_EXPERTS = 1024;

void check_vocabulary(const GgufFile & file) {
    const auto tokenizer = file.text("tokenizer.ggml.model");
    if (!tokenizer || *tokenizer == "none") {
        file.refuse("has no vocabulary (tokenizer.ggml.model)");
    }
    const int64_t id = gguf_find_key(file.get(), "tokenizer.ggml.tokens");
    if (id < 0 || gguf_get_kv_type(file.get(), id) != GGUF_TYPE_ARRAY ||
        gguf_get_arr_type(file.get(), id) != GGUF_TYPE_STRING || gguf_get_arr_n(file.get(), id) == 0) {
        file.refuse("has no vocabulary (tokenizer.ggml.tokens)");
    }
    const auto n_vocab = (int64_t)gguf_get_arr_n(file.get(), id);
    std::unordered_set<std::string_view> seen;
    for (int64_t i = 0; i < n_vocab; ++i) {
        if (!seen.insert(gguf_get_arr_str(file.get(), id, i)).second) {
            file.refuse("has token '" + std::string(gguf_get_arr_str(file.get(), id, i)) +
                        "' twice in its vocabulary");
        }
    }
    for (const char * key : {"bos", "eos", "unknown", "padding", "separator"}) {
        const std::string name = std::string("tokenizer.ggml.") + key + "_token_id";
        const auto token = file.integer(name);
        if (token && *token != UINT32_MAX && (*token < 0 || *token >= n_vocab)) {
            file.refuse("names token " + std::to_string(*token) + " as " + name +
                        ", outside its vocabulary of " + std::to_string(n_vocab));
        }
    }
}

// What llama.cpp asserts of a model's shape: a file that says otherwise would end the process.
void check_shape(const GgufFile & file, const std::string & architecture, int64_t n_layer, int64_t n_embd) {
    const auto integer = [&](const char * key) { return file.integer(architecture + "." + key); };
    if (n_layer > MAX_LAYERS) {
        file.refuse("says that it has " + std::to_string(n_layer) + " blocks");
    }
    const int64_t n_expert = integer("expert_count").value_or(0);
    const int64_t n_used = integer("expert_used_count").value_or(0);
    if (n_expert < 0 || n_expert > MAX_EXPERTS || n_used < 0 || n_used > n_expert ||
        (n_expert > 0 && n_used == 0)) {
        file.refuse("says that it uses " + std::to_string(n_used) + " of " + std::to_string(n_expert) +
                    " experts");
    }
    const int64_t n_next = integer("nextn_predict_layers").value_or(0);
    if (n_next < 0 || n_next >= n_layer) {
        file.refuse("says that " + std::to_string(n_next) + " of its " + std::to_string(n_layer) +
                    " blocks predict further tokens");
    }
    // the CPU's kernel takes 64 numbers of a head at a time, and writes beyond a smaller one
    const auto n_wkv = integer("wkv.head_size");
    if (n_wkv && (*n_wkv < 1 || *n_wkv % 64 != 0)) {
        file.refuse("says that its recurrent heads hold " + std::to_string(*n_wkv) +
                    " numbers, where llama.cpp needs a multiple of 64");
    }
    const auto scaling = file.text(architecture + ".rope.scaling.type");
    if (scaling && *scaling != "none" && *scaling != "linear" && *scaling != "yarn" &&
        *scaling != "longrope") {
        file.refuse("asks for an unknown rope scaling '" + *scaling + "'");
    }
}

// Models without attention write 0 heads or leave them out; elsewhere llama.cpp divides by them.
void check_heads(const GgufFile & file, const std::string & path, const std::string & architecture) {
    const std::string key = architecture + ".attention.head_count";
    if (file.first_integer(key).value_or(0) > 0) {
        return;
    }
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true; // it says what the architecture is, before anything is divided
    log_take();
    const AssertionGuard guard;
    const std::unique_ptr<llama_model, decltype(&llama_model_free)> model(
        llama_model_load_from_file(path.c_str(), params), llama_model_free);
    if (model == nullptr) {
        throw Error("bad_model", with_log("The model " + path + " could not be loaded"));
    }
    if (!llama_model_is_recurrent(model.get()) && !llama_model_is_hybrid(model.get())) {
        file.refuse("has no attention heads (" + key + "), which its architecture needs");
    }
}

} // namespace

void check_gguf(const std::vector<std::string> & paths) {
    const GgufFile first(paths.at(0));
    const auto architecture = first.text("general.architecture");
    if (!architecture || architecture->empty()) {
        first.refuse("does not say its architecture (general.architecture): it is not a language model");
    }
    const auto need = [&](const char * key) {
        const std::string name = *architecture + "." + key;
        const auto value = first.integer(name);
        if (!value || *value < 1) {
            first.refuse("does not say " + name + ", or says less than 1");
        }
        return *value;
    };
    const int64_t n_layer = need("block_count");
    const int64_t n_embd = need("embedding_length");
    need("context_length");
    check_shape(first, *architecture, n_layer, n_embd);
    if (first.integer(*architecture + ".attention.causal").value_or(1) == 0 ||
        first.integer(*architecture + ".pooling_type").value_or(0) > 0) {
        first.refuse("is an embedding model (" + *architecture +
                     "), which has no next token to read; take a causal language model");
    }
    check_vocabulary(first);

    bool has_blocks = false;
    bool has_embedding = false;
    for (size_t part = 0; part < paths.size(); ++part) {
        const GgufFile file(paths[part]);
        file.check_data();
        file.check_split(part, paths.size());
        has_blocks = has_blocks || gguf_get_n_tensors(file.get()) > 1;
        if (file.has_tensor("token_embd.weight")) {
            has_embedding = true;
            const int64_t id = gguf_find_tensor(file.get(), "token_embd.weight");
            const size_t row = ggml_row_size(gguf_get_tensor_type(file.get(), id), n_embd);
            if (row == 0 || gguf_get_tensor_size(file.get(), id) % row != 0) {
                file.refuse("has token embeddings that are not " + std::to_string(n_embd) + " wide");
            }
        }
    }
    if (!has_blocks || !has_embedding) {
        first.refuse("holds a vocabulary but no weights; take the whole model");
    }
    check_heads(first, paths.front(), *architecture);
}

} // namespace ps
