// What a graph node is called, in a way that holds in every graph of the model, whatever its shape.
#pragma once

#include "ggml.h"

#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace ps {

// The scheduler puts copies named `<backend>#<name>#<number>` where a node's source lies on another
// backend. The name is then that of what was copied.
std::string_view own_name(const ggml_tensor * node);
bool is_copy(const ggml_tensor * node);

// Nodes of a graph in its order.
using NodeList = std::vector<ggml_tensor *>;

// Whether `t` has name, type and shape of what `copy` is a copy of.
bool may_be_original(const ggml_tensor * t, const ggml_tensor * copy);

// What `copy`, a source of `taker`, may be a copy of. The true one is among them unless it is no node.
NodeList possible_originals(const ggml_tensor * copy, const ggml_tensor * taker, const NodeList & nodes);

// Nodes that the model's builder did not name are numbered, differently in graphs of different shapes.
bool is_numbered(std::string_view name);

class NodeNames {
public:
    explicit NodeNames(ggml_cgraph * graph);

    // Whether no other node has the name.
    bool is_telling(std::string_view name) const;
    // The name where it tells the node from all others, else name, operation and the same of the
    // sources, down to the weights. `before`: nodes of the same graph, from which copies are told.
    std::string signature(const ggml_tensor * node, const NodeList & before = {}) const;

private:
    std::unordered_set<std::string> shared_;
};

} // namespace ps
