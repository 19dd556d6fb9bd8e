// A compute graph that can be walked both ways.
#pragma once

#include "ggml.h"

#include <string_view>
#include <unordered_map>
#include <vector>

namespace ps {

class GraphMap {
public:
    explicit GraphMap(ggml_cgraph * graph);

    const std::vector<ggml_tensor *> & nodes() const { return nodes_; }
    // All nodes of a name.
    const std::vector<const ggml_tensor *> & named(std::string_view name) const;
    std::vector<const ggml_tensor *> sources(const ggml_tensor * node) const;
    // One entry for each use.
    const std::vector<const ggml_tensor *> & consumers(const ggml_tensor * node) const;

private:
    std::vector<ggml_tensor *> nodes_;
    std::unordered_map<std::string_view, std::vector<const ggml_tensor *>> by_name_;
    std::unordered_map<const ggml_tensor *, std::vector<const ggml_tensor *>> consumers_;
};

// Shows the same numbers in the same order in another shape.
bool is_reshaping(const ggml_tensor * node);

} // namespace ps
