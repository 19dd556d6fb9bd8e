// The compute graphs of a model, each in one piece.
#pragma once

#include "ggml-cpp.h"
#include "llama.h"

#include <vector>

namespace ps {

// Each node has its true sources. Where several devices share the work llama.cpp cuts the graph, and what
// a node takes from another device is a copy that says only by its name what it is a copy of; where that
// name fits several tensors the copy stays. Throws Error("out_of_memory").
// n_seqs: as many as the context has streams.
ggml_cgraph * whole_graph(llama_context * ctx, uint32_t n_tokens, uint32_t n_seqs, uint32_t n_outputs);

// The graph whose nodes a callback was shown in their order. It lives as long as the nodes do.
struct SeenGraph {
    ggml_context_ptr ctx;
    ggml_cgraph * graph;
};
SeenGraph seen_graph(const std::vector<ggml_tensor *> & nodes);

} // namespace ps
