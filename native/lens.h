// What a model makes of a state once all blocks are done: the part of its own compute graph that comes
// after the last block, copied and run on given states.
#pragma once

#include "llama.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ps {

class Lens {
public:
    // last_state: name of the node that is the last block's output; n_streams: as many as the context has.
    Lens(llama_model * model, llama_context * ctx, std::string last_state, uint32_t n_streams, int n_threads);
    ~Lens();
    Lens(const Lens &) = delete;
    Lens & operator=(const Lens &) = delete;

    // states: (n, n_embd) -> (n, n_vocab), valid until the next call. What was decoded last keeps its logits.
    // Throws Error("no_site") where the graph's end is not a plain function of the state and the weights.
    const std::vector<float> & logits(const float * states, int32_t n);

private:
    struct Graph;

    llama_context * ctx_;
    const std::string last_state_;
    const uint32_t n_streams_;
    std::vector<ggml_backend_t> backends_;
    std::unique_ptr<Graph> graph_; // for the last n
    std::vector<float> logits_;
};

} // namespace ps
