#include "whole_graph.h"

#include "error.h"
#include "log.h"
#include "signature.h"

#include "llama-ext.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <unordered_set>
#include <vector>

namespace ps {

namespace {

// What `copy` is a copy of; null where its name fits several tensors. One of them that nothing takes any more
// is the one whose takers were given copies.
ggml_tensor * original_of(const NodeList & fitting, const std::unordered_set<const ggml_tensor *> & taken) {
    if (fitting.size() == 1) {
        return fitting.front();
    }
    NodeList left;
    std::copy_if(fitting.begin(), fitting.end(), std::back_inserter(left),
                 [&](const ggml_tensor * t) { return taken.count(t) == 0; });
    return left.size() == 1 ? left.front() : nullptr;
}

void join_splits(ggml_cgraph * graph) {
    NodeList nodes;
    std::unordered_set<const ggml_tensor *> taken;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        nodes.push_back(node);
        taken.insert(std::begin(node->src), std::end(node->src));
    }
    for (ggml_tensor * node : nodes) {
        for (ggml_tensor *& src : node->src) {
            if (src == nullptr || !is_copy(src)) {
                continue;
            }
            NodeList fitting = possible_originals(src, node, nodes);
            if (fitting.empty()) { // no node of the graph, but one of its inputs or a weight
                ggml_tensor * leaf = ggml_graph_get_tensor(graph, std::string(own_name(src)).c_str());
                if (leaf != nullptr && leaf->op == GGML_OP_NONE && may_be_original(leaf, src)) {
                    fitting = {leaf};
                }
            }
            if (ggml_tensor * original = original_of(fitting, taken)) {
                src = original;
            }
        }
    }
}

} // namespace

ggml_cgraph * whole_graph(llama_context * ctx, uint32_t n_tokens, uint32_t n_seqs, uint32_t n_outputs) {
    log_take();
    ggml_cgraph * graph = llama_graph_reserve(ctx, n_tokens, n_seqs, n_outputs);
    if (graph == nullptr) {
        throw Error("out_of_memory", with_log("The compute graph could not be reserved"));
    }
    join_splits(graph);
    return graph;
}

SeenGraph seen_graph(const std::vector<ggml_tensor *> & nodes) {
    const size_t n_tensors = nodes.size() * (1 + GGML_MAX_SRC);
    ggml_context_ptr ctx(ggml_init({ggml_graph_overhead_custom(n_tensors, false), nullptr, true}));
    ggml_cgraph * graph = ggml_new_graph_custom(ctx.get(), n_tensors, false);
    for (ggml_tensor * node : nodes) {
        ggml_build_forward_expand(graph, node);
    }
    join_splits(graph);
    return {std::move(ctx), graph};
}

} // namespace ps
