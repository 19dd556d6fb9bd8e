#include "attention.h"

#include "graph_map.h"
#include "signature.h"

#include <cctype>
#include <map>
#include <string_view>

namespace ps {

namespace {

// The number after `prefix`; -1 if the name does not begin so.
int number_after(std::string_view name, std::string_view prefix) {
    if (name.substr(0, prefix.size()) != prefix || name.size() == prefix.size()) {
        return -1;
    }
    int number = 0;
    for (const char c : name.substr(prefix.size())) {
        if (!std::isdigit((unsigned char)c)) {
            break;
        }
        number = number * 10 + (c - '0');
    }
    return std::isdigit((unsigned char)name[prefix.size()]) ? number : -1;
}

bool shows_the_same(const ggml_tensor * t) {
    return is_reshaping(t) || t->op == GGML_OP_CPY || t->op == GGML_OP_CONT;
}

bool is_plain_mask(const ggml_tensor * mask) {
    return mask->op == GGML_OP_NONE && mask->ne[2] == 1 &&
           (mask->type == GGML_TYPE_F16 || mask->type == GGML_TYPE_F32) && ggml_is_contiguous(mask);
}

} // namespace

int key_cache_of(const ggml_tensor * t) {
    while (t != nullptr) {
        const int il = number_after(own_name(t), "cache_k_l");
        if (il >= 0 || !shows_the_same(t)) {
            return il;
        }
        t = t->src[0];
    }
    return -1;
}

int attention_block(const ggml_tensor * node) {
    if (node->op == GGML_OP_FLASH_ATTN_EXT) {
        return node->src[3] != nullptr ? key_cache_of(node->src[1]) : -1;
    }
    if (node->op != GGML_OP_SOFT_MAX || node->src[1] == nullptr) {
        return -1;
    }
    // scores may be scaled, capped or biased before they are masked
    const ggml_tensor * scores = node->src[0];
    while (scores != nullptr && scores->op != GGML_OP_MUL_MAT) {
        scores = scores->src[0];
    }
    return scores != nullptr ? key_cache_of(scores->src[0]) : -1;
}

ggml_tensor * mask_of(const ggml_tensor * attention) {
    return attention->src[attention->op == GGML_OP_FLASH_ATTN_EXT ? 3 : 1];
}

AttentionTable::AttentionTable(ggml_cgraph * graph, int n_layer)
    : blocks_(n_layer, {"it does not attend to cached keys", n_layer, -1}) {
    std::vector<std::vector<const ggml_tensor *>> attentions(n_layer);
    std::vector<std::vector<const ggml_tensor *>> writes(n_layer);
    std::vector<bool> recurrent(n_layer);
    const GraphMap map(graph);
    for (const ggml_tensor * node : map.nodes()) {
        if (const int il = attention_block(node); il >= 0 && il < n_layer) {
            attentions[il].push_back(node);
        }
        if (node->op == GGML_OP_SET_ROWS) {
            if (const int il = key_cache_of(node->src[2]); il >= 0 && il < n_layer) {
                writes[il].push_back(node);
            }
        }
        for (const ggml_tensor * source : map.sources(node)) {
            for (const char * state : {"cache_r_l", "cache_s_l"}) {
                if (const int il = number_after(own_name(source), state); il >= 0 && il < n_layer) {
                    recurrent[il] = true;
                }
            }
        }
    }
    std::map<const ggml_tensor *, int> last_of_mask, first_of_cells;
    for (int il = 0; il < n_layer; ++il) {
        Block & block = blocks_[il];
        if (recurrent[il]) {
            block.reason = "it looks back through a recurrent state, which no mask cuts";
        } else if (attentions[il].size() > 1 || writes[il].size() > 1) {
            block.reason = "its cached keys serve more than one attention";
        } else if (attentions[il].size() == 1 && !is_plain_mask(mask_of(attentions[il].front()))) {
            block.reason = "its mask is not given to the graph but made in it";
        } else if (attentions[il].size() == 1 && writes[il].size() == 1 &&
                   writes[il].front()->src[1]->type == GGML_TYPE_I64) {
            block.reason.clear();
            const auto [first, is_first] = first_of_cells.emplace(writes[il].front()->src[1], il);
            block.cells = first->second;
            const auto [last, is_new] = last_of_mask.emplace(mask_of(attentions[il].front()), il);
            if (!is_new) {
                blocks_[last->second].next = il;
                last->second = il;
            }
        }
    }
}

} // namespace ps
