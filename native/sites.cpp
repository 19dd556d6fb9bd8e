#include "sites.h"

#include "error.h"

#include <unordered_set>

namespace ps {

std::string to_string(const SiteKey & key) {
    return key.site == Site::embed ? "embed" : "resid_out of layer " + std::to_string(key.layer);
}

SiteTable::SiteTable(std::string embed, std::vector<std::string> resid_out)
    : embed_(std::move(embed)), resid_out_(std::move(resid_out)) {
    by_name_.emplace(embed_, SiteKey{Site::embed, 0});
    for (int il = 0; il < n_layer(); ++il) {
        by_name_.emplace(resid_out_[il], SiteKey{Site::resid_out, il});
    }
}

const std::string & SiteTable::name(const SiteKey & key) const {
    return key.site == Site::embed ? embed_ : resid_out_.at(key.layer);
}

const SiteKey * SiteTable::find(std::string_view node_name) const {
    const auto it = by_name_.find(node_name);
    return it == by_name_.end() ? nullptr : &it->second;
}

namespace {

using Consumers = std::unordered_map<const ggml_tensor *, std::vector<ggml_tensor *>>;

bool is_reshaping(const ggml_tensor * t) {
    return t->op == GGML_OP_RESHAPE || t->op == GGML_OP_VIEW || t->op == GGML_OP_CONT;
}

// Whether `target` is a summand of `sum`: reached through additions only, where rows may be left out
// (the last block keeps the rows that are read) but nothing may be scaled, normed or mixed.
bool is_summand(const ggml_tensor * sum, const ggml_tensor * target) {
    std::vector<const ggml_tensor *> open{sum};
    std::unordered_set<const ggml_tensor *> seen;
    while (!open.empty()) {
        const ggml_tensor * t = open.back();
        open.pop_back();
        if (t == target) {
            return true;
        }
        if (t == nullptr || !seen.insert(t).second) {
            continue;
        }
        if (t->op == GGML_OP_ADD) {
            open.push_back(t->src[0]);
            open.push_back(t->src[1]);
        } else if (t->op == GGML_OP_GET_ROWS || is_reshaping(t)) {
            open.push_back(t->src[0]);
        }
    }
    return false;
}

Consumers consumers_of(ggml_cgraph * graph) {
    Consumers consumers;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        for (ggml_tensor * src : node->src) {
            if (src != nullptr) {
                consumers[src].push_back(node);
            }
        }
    }
    return consumers;
}

// The input of block 0: the first node after the token embedding that the graph uses twice, once for
// the residual and at least once for the block's own computation.
ggml_tensor * find_embed(ggml_cgraph * graph, const Consumers & consumers) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        if (node->op != GGML_OP_GET_ROWS || std::string_view(node->src[1]->name) != "inp_tokens") {
            continue;
        }
        while (true) {
            const auto it = consumers.find(node);
            if (it == consumers.end()) {
                return nullptr;
            }
            if (it->second.size() != 1) {
                return node;
            }
            node = it->second.front();
        }
    }
    return nullptr;
}

[[noreturn]] void refuse(const std::string & reason) {
    throw Error("no_site", "This architecture has no plain residual stream that could be read or written: " +
                               reason + ".");
}

} // namespace

SiteNames label_sites(ggml_cgraph * graph, int n_layer, int64_t n_embd) {
    std::unordered_map<std::string_view, std::vector<ggml_tensor *>> nodes;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        nodes[node->name].push_back(node);
    }
    const auto the_state = [&](std::string_view name, const std::string & what) {
        const auto it = nodes.find(name);
        if (it == nodes.end()) {
            refuse("its graph does not name " + what + " (" + std::string(name) + ")");
        }
        if (it->second.size() != 1) {
            refuse("its graph has " + std::to_string(it->second.size()) + " nodes named " +
                   std::string(name));
        }
        ggml_tensor * node = it->second.front();
        if (node->type != GGML_TYPE_F32 || node->ne[0] != n_embd || !ggml_is_matrix(node)) {
            refuse(what + " is not a float32 row of width " + std::to_string(n_embd) + " for each token");
        }
        return node;
    };

    const Consumers consumers = consumers_of(graph);
    ggml_tensor * embed = find_embed(graph, consumers);
    if (embed == nullptr) {
        refuse("the input of block 0 does not follow from the token embedding");
    }
    SiteNames names;
    names.embed = embed->name;
    the_state(names.embed, "the input of block 0");

    const ggml_tensor * previous = embed;
    for (int il = 0; il < n_layer; ++il) {
        const std::string name = "l_out-" + std::to_string(il);
        const std::string what = "the output of block " + std::to_string(il);
        ggml_tensor * state = the_state(name, what);
        if (!is_summand(state, previous)) {
            refuse(what + " is not the block's input plus what the block adds");
        }
        names.resid_out.push_back(name);
        previous = state;
    }
    return names;
}

} // namespace ps
