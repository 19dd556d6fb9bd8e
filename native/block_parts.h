// Takes one block of a model apart: which summands lie between its input and its output, and what each
// of them comes from.
#pragma once

#include "graph_map.h"

#include <string>
#include <unordered_set>

namespace ps {

// A node, or why there is none, as a clause.
struct Finding {
    const ggml_tensor * node;
    std::string reason;
};

struct BlockParts {
    Finding resid_mid;
    Finding attn_out;
    Finding mlp_out;
};

// Whether `target` is a summand of `sum`: reached through additions only, where rows may be left out
// (the last block keeps the rows that are read) but nothing may be scaled, normed or mixed.
bool is_summand(const GraphMap & graph, const ggml_tensor * sum, const ggml_tensor * target);

// `input` must be a summand of `output`. `earlier`: the states that lie before `input`, where no search goes
// on.
BlockParts take_apart(const GraphMap & graph, const ggml_tensor * input, const ggml_tensor * output,
                      const std::unordered_set<const ggml_tensor *> & earlier);

} // namespace ps
