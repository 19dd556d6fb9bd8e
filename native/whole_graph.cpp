#include "whole_graph.h"

#include "error.h"
#include "log.h"
#include "signature.h"

#include "llama-ext.h"

#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace ps {

namespace {

bool is_copy(const ggml_tensor * t) { return own_name(t).size() != std::string_view(t->name).size(); }

// What `copy` is a copy of; null where its name fits several tensors. One of them that nothing takes any more
// is the one whose takers were given copies.
ggml_tensor * original_of(const ggml_tensor * copy, const std::vector<ggml_tensor *> & named,
                          const std::unordered_set<const ggml_tensor *> & taken) {
    std::vector<ggml_tensor *> fitting;
    std::vector<ggml_tensor *> left;
    for (ggml_tensor * t : named) {
        if (t->type == copy->type && ggml_are_same_shape(t, copy)) {
            fitting.push_back(t);
            if (taken.count(t) == 0) {
                left.push_back(t);
            }
        }
    }
    if (fitting.size() == 1) {
        return fitting.front();
    }
    return left.size() == 1 ? left.front() : nullptr;
}

void join_splits(ggml_cgraph * graph) {
    std::unordered_map<std::string_view, std::vector<ggml_tensor *>> by_name;
    std::unordered_set<const ggml_tensor *> taken;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        by_name[node->name].push_back(node);
        taken.insert(std::begin(node->src), std::end(node->src));
    }
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        for (ggml_tensor *& src : ggml_graph_node(graph, i)->src) {
            if (src == nullptr || !is_copy(src)) {
                continue;
            }
            const std::string name(own_name(src));
            const auto it = by_name.find(name);
            std::vector<ggml_tensor *> named;
            if (it != by_name.end()) {
                named = it->second;
            } else if (ggml_tensor * leaf = ggml_graph_get_tensor(graph, name.c_str())) {
                named = {leaf}; // no node of the graph, but one of its inputs or a weight
            }
            if (ggml_tensor * original = original_of(src, named, taken)) {
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
