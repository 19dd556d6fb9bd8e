#include "block_parts.h"

#include <algorithm>
#include <climits>
#include <string_view>
#include <unordered_map>

namespace ps {

namespace {

// What a summand comes from, as far as its ancestry says it beyond doubt.
enum class Kind {
    attention, // looks at other tokens through attention, and no activation follows
    scan,      // looks at earlier tokens through a recurrent operation
    memory,    // looks at earlier tokens by other means
    mlp,       // matrix products of the token's own state
    unknown,
};

struct Ancestry {
    bool attention = false;
    bool activated_attention = false; // an activation is applied to what attention gave
    bool scan = false;
    bool memory = false;
    bool product = false;
    int lowest = INT_MAX; // of the states of this block that it reads: 0 is the block's input

    Kind kind() const {
        if (attention) {
            return activated_attention || scan ? Kind::unknown : Kind::attention;
        }
        if (scan || memory) {
            return scan ? Kind::scan : Kind::memory;
        }
        return product && lowest != INT_MAX ? Kind::mlp : Kind::unknown;
    }
};

bool is_attention(const ggml_tensor * t) {
    // a router of experts takes a softmax too, but without a mask
    return t->op == GGML_OP_FLASH_ATTN_EXT || (t->op == GGML_OP_SOFT_MAX && t->src[1] != nullptr);
}

bool is_scan(const ggml_tensor * t) {
    switch (t->op) {
    case GGML_OP_SSM_CONV:
    case GGML_OP_SSM_SCAN:
    case GGML_OP_RWKV_WKV6:
    case GGML_OP_RWKV_WKV7:
    case GGML_OP_GATED_LINEAR_ATTN:
    case GGML_OP_GATED_DELTA_NET: return true;
    default: return false;
    }
}

bool is_activation(const ggml_tensor * t) { return t->op == GGML_OP_UNARY || t->op == GGML_OP_GLU; }

bool is_memory(const ggml_tensor * t) { return std::string_view(t->name).rfind("cache_", 0) == 0; }

bool is_input_or_weight(const ggml_tensor * t) {
    return t->op == GGML_OP_NONE ||
           (is_reshaping(t) && t->view_src != nullptr && t->view_src->op == GGML_OP_NONE);
}

struct Part {
    const ggml_tensor * node;
    Kind kind;
    int lowest;
};

class Block {
public:
    Block(const GraphMap & graph, const ggml_tensor * input,
          const std::unordered_set<const ggml_tensor *> & earlier)
        : graph_(graph), input_(input), earlier_(earlier) {}

    // States from the block's input on, each an addition to the one before, and what it adds.
    // False if there is more than one way from the input to the output.
    bool climb(const ggml_tensor * output) {
        std::vector<const ggml_tensor *> down;
        std::vector<const ggml_tensor *> addends;
        for (const ggml_tensor * t = output; t != input_;) {
            const auto sources = graph_.sources(t);
            if (t->op != GGML_OP_ADD) {
                t = sources[0];
                continue;
            }
            const bool first = is_summand(graph_, sources[0], input_);
            if (first && is_summand(graph_, sources[1], input_)) {
                return false;
            }
            down.push_back(t);
            addends.push_back(sources[first ? 1 : 0]);
            t = sources[first ? 0 : 1];
        }
        states_ = {input_};
        states_.insert(states_.end(), down.rbegin(), down.rend());
        for (size_t i = 0; i < states_.size(); ++i) {
            place_[states_[i]] = (int)i;
        }
        for (auto it = addends.rbegin(); it != addends.rend(); ++it) {
            parts_.emplace_back();
            split(*it, parts_.back());
        }
        return true;
    }

    Finding one(Kind kind, const std::string & what) const;
    Finding middle() const;

private:
    const Ancestry & ancestry(const ggml_tensor * t);
    void split(const ggml_tensor * addend, std::vector<Part> & parts);
    bool only_leads_to_sum(const ggml_tensor * t) const;

    bool any(Kind kind) const {
        return std::any_of(parts_.begin(), parts_.end(), [&](const auto & parts) {
            return std::any_of(parts.begin(), parts.end(), [&](const Part & p) { return p.kind == kind; });
        });
    }

    const GraphMap & graph_;
    const ggml_tensor * input_;
    const std::unordered_set<const ggml_tensor *> & earlier_;
    std::vector<const ggml_tensor *> states_;
    std::unordered_map<const ggml_tensor *, int> place_;
    std::vector<std::vector<Part>> parts_; // parts_[i] make states_[i + 1] of states_[i]
    std::unordered_map<const ggml_tensor *, Ancestry> known_;
};

const Ancestry & Block::ancestry(const ggml_tensor * t) {
    if (const auto it = known_.find(t); it != known_.end()) {
        return it->second;
    }
    Ancestry own;
    if (const auto it = place_.find(t); it != place_.end()) {
        own.lowest = it->second;
    } else if (earlier_.count(t) == 0) {
        own.memory = is_memory(t);
        own.scan = is_scan(t);
        own.product = t->op == GGML_OP_MUL_MAT || t->op == GGML_OP_MUL_MAT_ID;
        for (const ggml_tensor * source : graph_.sources(t)) {
            const Ancestry & from = ancestry(source);
            own.attention |= from.attention;
            own.activated_attention |= from.activated_attention || (from.attention && is_activation(t));
            own.scan |= from.scan;
            own.memory |= from.memory;
            own.product |= from.product;
            own.lowest = std::min(own.lowest, from.lowest);
        }
        own.attention |= is_attention(t);
    }
    return known_[t] = own;
}

// Where attention and MLP are added to each other before they are added to the state.
void Block::split(const ggml_tensor * addend, std::vector<Part> & parts) {
    const ggml_tensor * t = addend;
    while (t->op == GGML_OP_GET_ROWS) {
        t = graph_.sources(t)[0];
    }
    const Ancestry own = ancestry(t);
    if (t->op == GGML_OP_ADD) {
        const auto sources = graph_.sources(t);
        const bool constant = is_input_or_weight(sources[0]) || is_input_or_weight(sources[1]);
        if (!constant && ancestry(sources[0]).kind() != ancestry(sources[1]).kind()) {
            split(sources[0], parts);
            split(sources[1], parts);
            return;
        }
    }
    parts.push_back({t, own.kind(), own.lowest});
}

// A part may be written only if nothing but the state it is added to sees it.
bool Block::only_leads_to_sum(const ggml_tensor * t) const {
    for (const ggml_tensor * base = t; is_reshaping(base);) {
        base = graph_.sources(base)[0];
        if (graph_.consumers(base).size() != 1) {
            return false;
        }
    }
    while (place_.count(t) == 0) {
        const auto & consumers = graph_.consumers(t);
        if (consumers.size() != 1) {
            return false;
        }
        t = consumers.front();
    }
    return true;
}

Finding Block::one(Kind kind, const std::string & what) const {
    const ggml_tensor * found = nullptr;
    int count = 0;
    for (const auto & parts : parts_) {
        for (const Part & part : parts) {
            if (part.kind == kind) {
                found = part.node;
                ++count;
            }
        }
    }
    if (any(Kind::unknown)) {
        return {nullptr, "the block adds something that is neither attention nor MLP alone"};
    }
    if (count == 0) {
        if (kind == Kind::attention && (any(Kind::scan) || any(Kind::memory))) {
            return {nullptr, "the block looks back through a recurrent state, not by attention"};
        }
        if (kind == Kind::mlp && any(Kind::memory)) {
            return {nullptr, "what the block adds last looks back at the token before, so it is no MLP"};
        }
        return {nullptr, "the block has no " + what};
    }
    if (count > 1) {
        return {nullptr, what + " is added in " + std::to_string(count) + " parts"};
    }
    if (!only_leads_to_sum(found)) {
        return {nullptr, "what " + what + " adds is used elsewhere too"};
    }
    return {found, ""};
}

// The state below which everything mixes tokens and above which everything reads that state alone.
Finding Block::middle() const {
    const auto all = [&](size_t begin, size_t end, auto holds) {
        return std::all_of(parts_.begin() + begin, parts_.begin() + end, [&](const auto & parts) {
            return std::all_of(parts.begin(), parts.end(), holds);
        });
    };
    const auto none = [&](size_t begin, size_t end, Kind kind) {
        return all(begin, end, [&](const Part & part) { return part.kind != kind; });
    };
    std::vector<size_t> possible;
    bool reads_below = false;
    for (size_t m = 1; m < parts_.size(); ++m) {
        const bool mixes_below = all(0, m, [](const Part & part) {
            return part.kind == Kind::attention || part.kind == Kind::scan || part.kind == Kind::memory;
        });
        const bool own_above = all(m, parts_.size(), [](const Part & part) {
            return part.kind == Kind::mlp || part.kind == Kind::memory;
        });
        // two unnamed uses of memory do not say which of them is the mixer
        const bool told = none(0, m, Kind::memory) || none(m, parts_.size(), Kind::memory);
        if (!mixes_below || !own_above || !told) {
            continue;
        }
        if (all(m, parts_.size(), [&](const Part & part) { return part.lowest >= (int)m; })) {
            possible.push_back(m);
        } else {
            reads_below = true;
        }
    }
    if (possible.size() == 1) {
        return {states_[possible.front()], ""};
    }
    const bool mixes = any(Kind::attention) || any(Kind::scan);
    if (any(Kind::unknown) || possible.size() > 1) {
        return {nullptr, "it can't be told where the block's attention ends and its MLP begins"};
    }
    if (!any(Kind::mlp) && !(any(Kind::memory) && mixes)) {
        return {nullptr, "the block has no MLP"};
    }
    if (!mixes && !any(Kind::memory)) {
        return {nullptr, "the block has no attention"};
    }
    for (const auto & parts : parts_) {
        reads_below |= std::any_of(parts.begin(), parts.end(), [](const Part & part) {
            return part.kind == Kind::mlp && part.lowest == 0;
        });
    }
    return {nullptr, reads_below ? "attention and MLP read the same input, so there is no state between them"
                                 : "it can't be told where the block's attention ends and its MLP begins"};
}

} // namespace

bool is_summand(const GraphMap & graph, const ggml_tensor * sum, const ggml_tensor * target) {
    std::vector<const ggml_tensor *> open{sum};
    std::unordered_set<const ggml_tensor *> seen;
    while (!open.empty()) {
        const ggml_tensor * t = open.back();
        open.pop_back();
        if (t == target) {
            return true;
        }
        if (!seen.insert(t).second) {
            continue;
        }
        if (t->op == GGML_OP_ADD) {
            for (const ggml_tensor * source : graph.sources(t)) {
                open.push_back(source);
            }
        } else if (t->op == GGML_OP_GET_ROWS || is_reshaping(t)) {
            open.push_back(graph.sources(t)[0]);
        }
    }
    return false;
}

BlockParts take_apart(const GraphMap & graph, const ggml_tensor * input, const ggml_tensor * output,
                      const std::unordered_set<const ggml_tensor *> & earlier) {
    Block block(graph, input, earlier);
    if (!block.climb(output)) {
        const Finding none{nullptr, "the block adds its input more than once"};
        return {none, none, none};
    }
    return {block.middle(), block.one(Kind::attention, "attention"), block.one(Kind::mlp, "MLP")};
}

} // namespace ps
