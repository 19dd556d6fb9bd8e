// Where the attention of each block lies in a model's compute graph: the one place that says which tokens a
// token may look at is the mask that attention takes.
#pragma once

#include "ggml.h"

#include <string>
#include <vector>

namespace ps {

// The block in whose K cache `t` lies, whatever view, cast or copy of it `t` is; -1 if in none.
int key_cache_of(const ggml_tensor * t);

// The block whose cached keys the node is the attention over; -1 if it is no such attention.
int attention_block(const ggml_tensor * node);

// What an attention node adds to its scores: -infinity where a token may not look.
ggml_tensor * mask_of(const ggml_tensor * attention);

class AttentionTable {
public:
    AttentionTable(ggml_cgraph * graph, int n_layer);

    int n_layer() const { return (int)blocks_.size(); }
    // Why no edge of the block's attention can be cut, as a clause; "" if each can.
    const std::string & reason(int il) const { return blocks_.at(il).reason; }
    // The next block whose attention takes the same mask; n_layer() if there is none.
    int next(int il) const { return blocks_.at(il).next; }
    // The first block whose keys lie in the same cells.
    int cells(int il) const { return blocks_.at(il).cells; }

private:
    struct Block {
        std::string reason;
        int next;
        int cells;
    };
    std::vector<Block> blocks_;
};

} // namespace ps
