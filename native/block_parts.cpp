#include "block_parts.h"

#include "ancestry.h"

#include <algorithm>

namespace ps {

namespace {

// A summand of what the block adds.
struct Part {
    const ggml_tensor * node;
    Kind kind;
    int lowest; // of the block's states that it reads
};

bool is_constant(const ggml_tensor * t) {
    while (is_reshaping(t)) {
        t = t->src[0];
    }
    return t->op == GGML_OP_NONE;
}

class Block {
public:
    Block(const GraphMap & graph, const ggml_tensor * input,
          const std::unordered_set<const ggml_tensor *> & earlier)
        : graph_(graph), input_(input), ancestors_(graph, place_, earlier) {}

    // False if there is more than one way from the input to the output.
    bool climb(const ggml_tensor * output);
    // The only part of that kind.
    Finding part(Kind kind, const std::string & what) const;
    // The state below which everything looks at other tokens and above which everything reads that
    // state alone.
    Finding middle() const;

private:
    void split(const ggml_tensor * addend, int step);
    bool only_leads_to_sum(const ggml_tensor * t) const;
    int count(Kind kind) const;

    const GraphMap & graph_;
    const ggml_tensor * input_;
    std::vector<const ggml_tensor *> states_; // from the input on, each an addition to the one before
    std::unordered_map<const ggml_tensor *, int> place_;
    std::vector<std::vector<Part>> parts_; // parts_[i] make states_[i + 1] of states_[i]
    Ancestors ancestors_;
};

bool Block::climb(const ggml_tensor * output) {
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
        states_.push_back(t);
        addends.push_back(sources[first ? 1 : 0]);
        t = sources[first ? 0 : 1];
    }
    states_.push_back(input_);
    std::reverse(states_.begin(), states_.end());
    std::reverse(addends.begin(), addends.end());
    for (size_t i = 0; i < states_.size(); ++i) {
        place_[states_[i]] = (int)i;
    }
    parts_.resize(addends.size());
    for (size_t i = 0; i < addends.size(); ++i) {
        split(addends[i], (int)i);
    }
    return true;
}

// Attention and MLP may be added to each other before they are added to the state.
void Block::split(const ggml_tensor * addend, int step) {
    const ggml_tensor * t = addend;
    while (t->op == GGML_OP_GET_ROWS) { // the last block leaves rows out
        t = graph_.sources(t)[0];
    }
    if (t->op == GGML_OP_ADD) {
        const auto sources = graph_.sources(t);
        const bool bias = is_constant(sources[0]) || is_constant(sources[1]);
        if (!bias && ancestors_.of(sources[0]).kind() != ancestors_.of(sources[1]).kind()) {
            split(sources[0], step);
            split(sources[1], step);
            return;
        }
    }
    const Ancestry & ancestry = ancestors_.of(t);
    parts_[step].push_back({t, ancestry.kind(), ancestry.lowest});
}

// A part is a site only if nothing but the state it is added to sees it.
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

int Block::count(Kind kind) const {
    int n = 0;
    for (const auto & parts : parts_) {
        n += std::count_if(parts.begin(), parts.end(), [&](const Part & part) { return part.kind == kind; });
    }
    return n;
}

Finding Block::part(Kind kind, const std::string & what) const {
    if (count(Kind::unknown) > 0) {
        return {nullptr, "the block adds something that is neither attention nor MLP alone"};
    }
    if (count(kind) == 0) {
        if (kind == Kind::attention && count(Kind::scan) + count(Kind::memory) > 0) {
            return {nullptr, "the block looks back through a recurrent state, not by attention"};
        }
        if (kind == Kind::mlp && count(Kind::memory) > 0) {
            return {nullptr, "what the block adds last looks back at the token before, so it is no MLP"};
        }
        return {nullptr, "the block has no " + what};
    }
    if (count(kind) > 1) {
        return {nullptr, what + " is added in " + std::to_string(count(kind)) + " parts"};
    }
    for (const auto & parts : parts_) {
        for (const Part & part : parts) {
            if (part.kind == kind && only_leads_to_sum(part.node)) {
                return {part.node, ""};
            }
        }
    }
    return {nullptr, "what " + what + " adds is used elsewhere too"};
}

Finding Block::middle() const {
    const std::string untold = "it can't be told where the block's attention ends and its MLP begins";
    const std::string same_input = "attention and MLP read the same input, so there is no state between them";
    const int mixers = count(Kind::attention) + count(Kind::scan);
    if (count(Kind::unknown) > 0) {
        return {nullptr, untold};
    }
    if (mixers + count(Kind::memory) == 0) {
        return {nullptr, "the block has no attention"};
    }
    if (count(Kind::mlp) == 0 && (mixers == 0 || count(Kind::memory) == 0)) {
        return {nullptr, "the block has no MLP"};
    }
    const auto all = [](auto begin, auto end, auto holds) {
        return std::all_of(
            begin, end, [&](const auto & parts) { return std::all_of(parts.begin(), parts.end(), holds); });
    };
    const auto is_mlp = [](const Part & part) { return part.kind == Kind::mlp; };
    const auto is_memory = [](const Part & part) { return part.kind == Kind::memory; };
    std::vector<size_t> found;
    bool reads_below = false;
    for (size_t m = 1; m < parts_.size(); ++m) {
        const auto begin = parts_.begin(), middle = begin + (long)m, end = parts_.end();
        // something that remembers may stand on either side, but then it must be clear which it is
        const bool clear =
            all(begin, middle, [&](const Part & p) { return !is_mlp(p); }) &&
            all(middle, end, [&](const Part & p) { return is_mlp(p) || is_memory(p); }) &&
            (all(begin, middle, [&](const Part & p) { return !is_memory(p); }) || all(middle, end, is_mlp));
        if (!clear) {
            continue;
        }
        if (all(middle, end, [&](const Part & part) { return part.lowest >= (int)m; })) {
            found.push_back(m);
        } else {
            reads_below = true;
        }
    }
    if (found.size() == 1) {
        return {states_[found.front()], ""};
    }
    const bool parallel = std::any_of(parts_.begin(), parts_.end(), [&](const auto & parts) {
        return std::any_of(parts.begin(), parts.end(),
                           [&](const Part & part) { return is_mlp(part) && part.lowest == 0; });
    });
    return {nullptr, found.empty() && (reads_below || parallel) ? same_input : untold};
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
    return {block.middle(), block.part(Kind::attention, "attention"), block.part(Kind::mlp, "MLP")};
}

} // namespace ps
