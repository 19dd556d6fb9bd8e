#include "graph_map.h"

namespace ps {

namespace {

const std::vector<const ggml_tensor *> NONE;

template <class Map, class Key> const std::vector<const ggml_tensor *> & get(const Map & map, Key key) {
    const auto it = map.find(key);
    return it == map.end() ? NONE : it->second;
}

} // namespace

GraphMap::GraphMap(ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        nodes_.push_back(node);
        by_name_[node->name].push_back(node);
        for (const ggml_tensor * source : sources(node)) {
            consumers_[source].push_back(node);
        }
    }
}

const std::vector<const ggml_tensor *> & GraphMap::named(std::string_view name) const {
    return get(by_name_, name);
}

std::vector<const ggml_tensor *> GraphMap::sources(const ggml_tensor * node) const {
    std::vector<const ggml_tensor *> found;
    for (const ggml_tensor * source : node->src) {
        if (source != nullptr && source != node) { // a cast is its own second source
            found.push_back(source);
        }
    }
    return found;
}

const std::vector<const ggml_tensor *> & GraphMap::consumers(const ggml_tensor * node) const {
    return get(consumers_, node);
}

bool is_reshaping(const ggml_tensor * node) {
    return node->op == GGML_OP_RESHAPE || node->op == GGML_OP_VIEW || node->op == GGML_OP_CONT;
}

} // namespace ps
