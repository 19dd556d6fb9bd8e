#include "whole_graph.h"

#include "error.h"
#include "log.h"

#include "llama-ext.h"

#include <string>
#include <string_view>
#include <unordered_map>

namespace ps {

namespace {

// The scheduler writes "device#name of the original#number"; empty for any other tensor.
std::string original_name(const ggml_tensor * t) {
    const std::string_view name = t->name;
    const size_t first = name.find('#');
    const size_t last = name.rfind('#');
    if (t->op != GGML_OP_NONE || first == std::string_view::npos || first == last) {
        return "";
    }
    return std::string(name.substr(first + 1, last - first - 1));
}

void join_splits(ggml_cgraph * graph) {
    std::unordered_map<std::string_view, ggml_tensor *> by_name; // null where several have the name
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        const auto [it, is_new] = by_name.emplace(node->name, node);
        if (!is_new) {
            it->second = nullptr;
        }
    }
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        for (ggml_tensor *& src : ggml_graph_node(graph, i)->src) {
            const std::string name = src == nullptr ? "" : original_name(src);
            if (name.empty()) {
                continue;
            }
            const auto it = by_name.find(name);
            // what is no node of the graph is one of its inputs or a weight
            ggml_tensor * original =
                it == by_name.end() ? ggml_graph_get_tensor(graph, name.c_str()) : it->second;
            if (original != nullptr && original->type == src->type && ggml_are_same_shape(original, src)) {
                src = original;
            }
        }
    }
}

} // namespace

ggml_cgraph * whole_graph(llama_context * ctx, uint32_t n_tokens, uint32_t n_outputs) {
    log_take();
    ggml_cgraph * graph = llama_graph_reserve(ctx, n_tokens, 1, n_outputs);
    if (graph == nullptr) {
        throw Error("out_of_memory", with_log("The compute graph could not be reserved"));
    }
    join_splits(graph);
    return graph;
}

} // namespace ps
