#include "block_parts.h"
#include "error.h"
#include "graph_map.h"
#include "sites.h"

#include <chrono>

namespace ps {

namespace {

constexpr const char * LAST_STATE = "result_embd";

[[noreturn]] void refuse(const std::string & reason) {
    throw Error("no_site", "This architecture has no plain residual stream that could be read or written: " +
                               reason + ".");
}

// The input of block 0: the first node after the token embedding that the graph uses twice, once for
// the residual and at least once for the block's own computation.
const ggml_tensor * find_embed(const GraphMap & graph) {
    for (const ggml_tensor * node : graph.nodes()) {
        if (node->op != GGML_OP_GET_ROWS || own_name(node->src[1]) != "inp_tokens") {
            continue;
        }
        const ggml_tensor * state = node; // as a row for each token, whatever shape the block takes it in
        while (true) {
            if (!is_reshaping(node)) {
                state = node;
            }
            const auto & consumers = graph.consumers(node);
            if (consumers.empty()) {
                return nullptr;
            }
            if (consumers.size() != 1) {
                return state;
            }
            node = consumers.front();
        }
    }
    return nullptr;
}

// Whether `node` is the norm of `state` and nothing more.
bool is_norm_of(const GraphMap & graph, const ggml_tensor * node, const ggml_tensor * state) {
    bool normed = false;
    while (node != state) {
        switch (node->op) {
        case GGML_OP_NORM:
        case GGML_OP_RMS_NORM: normed = true; break;
        case GGML_OP_MUL:
        case GGML_OP_ADD:
            if (normed || graph.sources(node)[1]->op != GGML_OP_NONE) { // scale and bias follow the norm
                return false;
            }
            break;
        case GGML_OP_GET_ROWS: break;
        default:
            if (!is_reshaping(node)) {
                return false;
            }
        }
        node = graph.sources(node)[0];
    }
    return normed;
}

class Labelling {
public:
    Labelling(ggml_cgraph * graph, int n_layer, int64_t n_embd)
        : graph_(graph), n_layer_(n_layer), n_embd_(n_embd), names_(graph) {
        for (const ggml_tensor * node : graph_.nodes()) {
            if (!names_.is_telling(node->name) && is_state(node)) {
                ++count_[names_.signature(node)];
            }
        }
        table_ = std::make_unique<SiteTable>(n_layer, names_);
    }

    std::unique_ptr<SiteTable> run() {
        const ggml_tensor * embed = find_embed(graph_);
        if (embed == nullptr) {
            refuse("the input of block 0 does not follow from the token embedding");
        }
        put_needed({Site::embed, 0}, embed, "the input of block 0");
        std::unordered_set<const ggml_tensor *> earlier;
        const ggml_tensor * input = embed;
        for (int il = 0; il < n_layer_; ++il) {
            const std::string name = "l_out-" + std::to_string(il);
            const std::string what = "the output of block " + std::to_string(il);
            const auto & named = graph_.named(is_last_of_renamed(il) ? LAST_STATE : name);
            if (named.empty()) {
                refuse("its graph does not name " + what + " (" + name + ")");
            }
            if (named.size() != 1) {
                refuse("its graph has " + std::to_string(named.size()) + " nodes named " +
                       named.front()->name);
            }
            const ggml_tensor * output = named.front();
            put_needed({Site::resid_out, il}, output, what);
            if (!is_summand(graph_, output, input)) {
                refuse(what + " is not the block's input plus what the block adds");
            }
            const BlockParts parts = take_apart(graph_, input, output, earlier);
            put({Site::resid_mid, il}, parts.resid_mid);
            put({Site::attn_out, il}, parts.attn_out);
            put({Site::mlp_out, il}, parts.mlp_out);
            earlier.insert(input);
            input = output;
        }
        put({Site::final_norm, 0}, final_norm(input));
        return std::move(table_);
    }

private:
    // Some graphs give the output of the last block another name once more.
    bool is_last_of_renamed(int il) const {
        return il == n_layer_ - 1 && graph_.named("l_out-" + std::to_string(il)).empty() &&
               !graph_.named(LAST_STATE).empty();
    }

    // In a graph of one sequence.
    bool is_state(const ggml_tensor * node) const {
        return node->type == GGML_TYPE_F32 && node->ne[0] == n_embd_ && ggml_is_matrix(node) &&
               ggml_is_contiguous(node);
    }

    bool is_unique(const ggml_tensor * node) const {
        return names_.is_telling(node->name) || count_.at(names_.signature(node)) == 1;
    }

    void put_needed(const SiteKey & key, const ggml_tensor * node, const std::string & what) {
        if (!is_state(node)) {
            refuse(what + " is not a float32 row of width " + std::to_string(n_embd_) + " for each token");
        }
        if (!is_unique(node)) {
            refuse("its graph has more nodes that look like " + what);
        }
        table_->put(key, node);
    }

    void put(const SiteKey & key, const Finding & finding) {
        if (finding.node == nullptr) {
            table_->put_absent(key, finding.reason);
        } else if (!is_state(finding.node)) {
            table_->put_absent(key, "it is not a float32 row of the model's width for each token");
        } else if (!is_unique(finding.node)) {
            table_->put_absent(key, "the graph has more nodes that look like it");
        } else {
            table_->put(key, finding.node);
        }
    }

    Finding final_norm(const ggml_tensor * last_state) const {
        const auto & named = graph_.named("result_norm");
        if (named.size() != 1 || !is_norm_of(graph_, named.front(), last_state)) {
            return {nullptr, "the last block's output is not followed by one norm named result_norm"};
        }
        return {named.front(), ""};
    }

    const GraphMap graph_;
    const int n_layer_;
    const int64_t n_embd_;
    const NodeNames names_;
    std::unordered_map<std::string, int> count_; // of the nodes that look alike, by signature
    std::unique_ptr<SiteTable> table_;
};

} // namespace

std::unique_ptr<SiteTable> label_sites(ggml_cgraph * graph, int n_layer, int64_t n_embd) {
    const auto begin = std::chrono::steady_clock::now();
    std::unique_ptr<SiteTable> table = Labelling(graph, n_layer, n_embd).run();
    table->milliseconds =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    return table;
}

} // namespace ps
