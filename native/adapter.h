// Low-rank adapters (LoRA) of a model: what they hold, and whether a graph computes all of it.
#pragma once

#include "ggml.h"
#include "llama.h"

#include <map>
#include <string>
#include <vector>

namespace ps {

struct Adapter {
    llama_adapter_lora * lora = nullptr; // the model frees it
    float alpha = 0;                     // 0: the file says none, and the scale alone counts
    std::vector<std::string> weights;    // names of the matrices that it is added to
};

// Only what the file says, before llama.cpp is given it. Throws Error("bad_model") with the reason where it
// is no adapter of that model. model_paths: as check_gguf takes them.
Adapter read_adapter(const std::string & path, const std::vector<std::string> & model_paths);

// How often graphs use each matrix of an adapter, and how often with the adapter.
class AdapterUse {
public:
    explicit AdapterUse(const Adapter & adapter);

    void add(ggml_cgraph * graph);
    // Throws Error("bad_model") unless every use of each matrix is one with the adapter: llama.cpp leaves
    // adapters out where an architecture does not provide for them.
    void check() const;

private:
    struct Count {
        int plain = 0, a = 0, b = 0;
    };
    std::map<std::string, Count> counts_;
};

} // namespace ps
