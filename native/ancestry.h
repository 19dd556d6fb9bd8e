// What a node of a block comes from, back to the states that the block has at hand.
#pragma once

#include "graph_map.h"

#include <climits>
#include <unordered_map>
#include <unordered_set>

namespace ps {

// What something added to the state is, as far as its ancestry says it beyond doubt.
enum class Kind {
    attention, // looks at other tokens through attention, and no activation follows
    scan,      // looks at earlier tokens through a recurrent operation
    memory,    // looks at earlier tokens by other means
    mlp,       // matrix products of the token's own state
    unknown,
};

struct Ancestry {
    static constexpr int NO_STATE = INT_MAX;

    bool attention = false;
    bool activated_attention = false; // an activation is applied to what attention gave
    bool scan = false;
    bool memory = false;
    bool product = false;
    int lowest = NO_STATE; // of the block's states that it reads, 0 being the block's input

    Kind kind() const;
};

class Ancestors {
public:
    // `place`: the block's states by their order. `earlier`: states of the blocks before, where the
    // search ends too. All must outlive this.
    Ancestors(const GraphMap & graph, const std::unordered_map<const ggml_tensor *, int> & place,
              const std::unordered_set<const ggml_tensor *> & earlier)
        : graph_(graph), place_(place), earlier_(earlier) {}

    const Ancestry & of(const ggml_tensor * node);

private:
    const GraphMap & graph_;
    const std::unordered_map<const ggml_tensor *, int> & place_;
    const std::unordered_set<const ggml_tensor *> & earlier_;
    std::unordered_map<const ggml_tensor *, Ancestry> known_;
};

} // namespace ps
