#include "sites.h"

namespace ps {

const char * site_name(Site site) {
    switch (site) {
    case Site::embed: return "embed";
    case Site::resid_mid: return "resid_mid";
    case Site::attn_out: return "attn_out";
    case Site::mlp_out: return "mlp_out";
    case Site::resid_out: return "resid_out";
    case Site::final_norm: return "final_norm";
    }
    return "";
}

std::optional<Site> site_named(std::string_view name) {
    for (Site site : ALL_SITES) {
        if (name == site_name(site)) {
            return site;
        }
    }
    return std::nullopt;
}

bool is_of_block(Site site) { return site != Site::embed && site != Site::final_norm; }

std::string to_string(const SiteKey & key) {
    const std::string name = site_name(key.site);
    return is_of_block(key.site) ? name + " of layer " + std::to_string(key.layer) : name;
}

SiteTable::SiteTable(int n_layer, NodeNames names)
    : n_layer_(n_layer), names_(std::move(names)), places_(ALL_SITES.size() * n_layer) {}

size_t SiteTable::index(const SiteKey & key) const { return (size_t)key.site * n_layer_ + key.layer; }

bool SiteTable::has(const SiteKey & key) const { return !places_.at(index(key)).signature.empty(); }

std::string SiteTable::name(const SiteKey & key) const { return places_.at(index(key)).signature; }

std::string SiteTable::reason(const SiteKey & key) const { return places_.at(index(key)).reason; }

void SiteTable::put(const SiteKey & key, const ggml_tensor * node) {
    Place & place = places_.at(index(key));
    place = {key, names_.signature(node), ""};
    by_signature_.emplace(place.signature, &place.key);
    if (!names_.is_telling(node->name)) {
        composed_ops_.set(node->op);
    }
}

void SiteTable::put_absent(const SiteKey & key, std::string reason) {
    places_.at(index(key)) = {key, "", std::move(reason)};
}

// Asked for every node of every decode, so what is composed comes last.
const SiteKey * SiteTable::find(const ggml_tensor * node, const NodeList & before) const {
    auto it = by_signature_.find(node->name);
    if (it == by_signature_.end() && composed_ops_.test(node->op) && !names_.is_telling(node->name)) {
        it = by_signature_.find(names_.signature(node, before));
    }
    return it == by_signature_.end() ? nullptr : it->second;
}

} // namespace ps
