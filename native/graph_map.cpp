#include "graph_map.h"

#include "signature.h"

#include <algorithm>
#include <iterator>
#include <unordered_set>

namespace ps {

namespace {

const std::vector<const ggml_tensor *> NONE;

template <class Map, class Key> const std::vector<const ggml_tensor *> & get(const Map & map, Key key) {
    const auto it = map.find(key);
    return it == map.end() ? NONE : it->second;
}

} // namespace

GraphMap::GraphMap(ggml_cgraph * graph) {
    std::unordered_set<const ggml_tensor *> used;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        nodes_.push_back(node);
        by_name_[node->name].push_back(node);
        used.insert(std::begin(node->src), std::end(node->src));
    }
    for (const ggml_tensor * node : nodes_) {
        for (const ggml_tensor * source : node->src) {
            if (source == nullptr || own_name(source).size() == std::string_view(source->name).size()) {
                continue;
            }
            // of two nodes of one name the copied one is that which nothing else leads on from
            std::vector<const ggml_tensor *> originals = named(own_name(source));
            if (originals.size() > 1) {
                originals.erase(std::remove_if(originals.begin(), originals.end(),
                                               [&](const ggml_tensor * t) { return used.count(t) > 0; }),
                                originals.end());
            }
            if (originals.size() == 1) {
                original_[source] = originals.front();
            }
        }
    }
    for (const ggml_tensor * node : nodes_) {
        for (const ggml_tensor * source : sources(node)) {
            consumers_[source].push_back(node);
        }
    }
}

const std::vector<const ggml_tensor *> & GraphMap::named(std::string_view name) const {
    return get(by_name_, name);
}

const ggml_tensor * GraphMap::original(const ggml_tensor * node) const {
    const auto it = original_.find(node);
    return it == original_.end() ? node : it->second;
}

std::vector<const ggml_tensor *> GraphMap::sources(const ggml_tensor * node) const {
    std::vector<const ggml_tensor *> found;
    for (const ggml_tensor * source : node->src) {
        if (source != nullptr && source != node) { // a cast is its own second source
            found.push_back(original(source));
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
