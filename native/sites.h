// Where in a model's compute graph the states lie. Sites are found by ancestry in the graph itself; one
// that can't be told with certainty is absent, with the reason.
#pragma once

#include "signature.h"

#include "ggml.h"

#include <array>
#include <bitset>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ps {

// embed:      input of block 0
// resid_mid:  the state between attention and MLP
// attn_out:   what attention adds to the state
// mlp_out:    what the MLP adds to the state
// resid_out:  output of a block
// final_norm: output of the norm behind the last block
enum class Site { embed, resid_mid, attn_out, mlp_out, resid_out, final_norm };

constexpr std::array<Site, 6> ALL_SITES = {Site::embed,   Site::resid_mid, Site::attn_out,
                                           Site::mlp_out, Site::resid_out, Site::final_norm};

const char * site_name(Site site);
std::optional<Site> site_named(std::string_view name);
// Whether there is one of it for each block.
bool is_of_block(Site site);

struct SiteKey {
    Site site;
    int layer; // 0 for embed and final_norm

    bool operator==(const SiteKey & other) const { return site == other.site && layer == other.layer; }
};

std::string to_string(const SiteKey & key);

class SiteTable {
public:
    SiteTable(int n_layer, NodeNames names);
    SiteTable(const SiteTable &) = delete;
    SiteTable & operator=(const SiteTable &) = delete;

    int n_layer() const { return n_layer_; }
    bool has(const SiteKey & key) const;
    // The node's name in the graph, or what it is made of where it has none of its own; "" if absent.
    std::string name(const SiteKey & key) const;
    // Why the site is absent, as a clause; "" if it is there.
    std::string reason(const SiteKey & key) const;
    // Null if no site lies at the node. `before`: the nodes of its graph before it.
    const SiteKey * find(const ggml_tensor * node, const NodeList & before) const;

    // Each key is put once. `node` must be the only one of its signature in the graph.
    void put(const SiteKey & key, const ggml_tensor * node);
    void put_absent(const SiteKey & key, std::string reason);

    double milliseconds = 0; // what labelling took

private:
    struct Place {
        SiteKey key;
        std::string signature;
        std::string reason;
    };
    size_t index(const SiteKey & key) const;

    int n_layer_;
    NodeNames names_;
    std::vector<Place> places_;
    std::unordered_map<std::string_view, const SiteKey *> by_signature_; // views into places_
    std::bitset<GGML_OP_COUNT> composed_ops_; // of the nodes whose name alone does not tell them
};

// Throws Error("no_site") with the reason where even the blocks' inputs and outputs can't be told.
// n_embd: width of a state.
std::unique_ptr<SiteTable> label_sites(ggml_cgraph * graph, int n_layer, int64_t n_embd);

} // namespace ps
