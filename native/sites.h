// Where in a model's compute graph the states lie. Sites are found by ancestry in the graph itself; a
// graph whose sites are not what their names say is refused.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ps {

enum class Site { embed, resid_mid, attn_out, mlp_out, resid_out, final_norm };

struct SiteKey {
    Site site;
    int layer; // 0 for embed

    bool operator==(const SiteKey & other) const { return site == other.site && layer == other.layer; }
};

std::string to_string(const SiteKey & key);

// Name of the graph node of each site; every name is that of exactly one node.
class SiteTable {
public:
    SiteTable(std::string embed, std::vector<std::string> resid_out);
    SiteTable(const SiteTable &) = delete;
    SiteTable & operator=(const SiteTable &) = delete;

    int n_layer() const { return (int)resid_out_.size(); }
    const std::string & name(const SiteKey & key) const;
    bool has(const SiteKey & key) const { return key.site == Site::embed || key.site == Site::resid_out; }
    std::string reason(const SiteKey &) const { return "not yet"; }
    // Null if no site lies at the node.
    const SiteKey * find(std::string_view node_name) const;

private:
    std::string embed_;
    std::vector<std::string> resid_out_;
    std::unordered_map<std::string_view, SiteKey> by_name_; // views into the two above
};

struct SiteNames {
    std::string embed;
    std::vector<std::string> resid_out;
};

// Throws Error("no_site") with the reason. n_embd: width of a state.
SiteNames label_sites(ggml_cgraph * graph, int n_layer, int64_t n_embd);

} // namespace ps
