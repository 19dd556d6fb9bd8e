// A loaded model and its vocabulary; knows no JavaScript.
#pragma once

#include "adapter.h"

#include "llama.h"

#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace ps {

struct ModelHandle {
    llama_model * model = nullptr;
    std::deque<Adapter> adapters; // contexts point to them
    ModelHandle() = default;
    ~ModelHandle();
    ModelHandle(const ModelHandle &) = delete;
    ModelHandle & operator=(const ModelHandle &) = delete;

    const llama_vocab * vocab() const { return llama_model_get_vocab(model); }
    // Blocks that read from left to right, in an encoder-decoder model those of its decoder.
    int n_layer() const;
    // Blocks of the encoder; 0 where there is none.
    int n_encoder_layer() const;
    // Empty where the model has no such key.
    std::string metadata(const std::string & key) const;

    std::vector<llama_token> tokenize(const std::string & text, bool bos, bool special) const;
    // Special tokens give their written form.
    std::string token_bytes(llama_token token) const;
};

struct Placement {
    // Blocks that go to `devices`, the output counting as one.
    int32_t n_gpu_layers = 0;
    // Names of ggml's registry. No blocks or no devices: the CPU alone.
    std::vector<std::string> devices;
    // Blocks are spread over the devices; otherwise all of them go to the first.
    bool split_by_layer = false;
    // The vocabulary alone: no weights, and no sizes of the model.
    bool vocab_only = false;
};

// Throws Error("bad_model" | "no_device" | "out_of_memory"). The file must have passed check_gguf.
std::shared_ptr<ModelHandle> load_model(const std::string & path, const Placement & placement);

// Adds one to the model's adapters, for contexts that are made from then on. Throws Error("bad_model").
void add_adapter(ModelHandle & model, const std::string & path, const std::vector<std::string> & model_paths);

// Writes `to` with its matrices in the file type of this name (f32, q4_0, q4_k_m, ...). Returns how many
// got another type because theirs can't hold rows of their width. Throws Error.
int32_t convert(const std::string & from, const std::string & to, const std::string & type,
                int32_t n_threads);

} // namespace ps
