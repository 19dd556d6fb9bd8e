#include "ancestry.h"

#include "signature.h"

#include <algorithm>

namespace ps {

namespace {

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

bool is_product(const ggml_tensor * t) { return t->op == GGML_OP_MUL_MAT || t->op == GGML_OP_MUL_MAT_ID; }

// The caches of keys and values and of recurrent states.
bool is_memory(const ggml_tensor * t) { return own_name(t).rfind("cache_", 0) == 0; }

} // namespace

Kind Ancestry::kind() const {
    if (attention) {
        return activated_attention || scan ? Kind::unknown : Kind::attention;
    }
    if (scan) {
        return Kind::scan;
    }
    if (memory) {
        return Kind::memory;
    }
    return product && lowest != NO_STATE ? Kind::mlp : Kind::unknown;
}

const Ancestry & Ancestors::of(const ggml_tensor * node) {
    if (const auto it = known_.find(node); it != known_.end()) {
        return it->second;
    }
    Ancestry own;
    if (const auto it = place_.find(node); it != place_.end()) {
        own.lowest = it->second;
    } else if (earlier_.count(node) == 0) {
        own.scan = is_scan(node);
        own.memory = is_memory(node);
        own.product = is_product(node);
        for (const ggml_tensor * source : graph_.sources(node)) {
            const Ancestry & from = of(source);
            own.attention |= from.attention;
            own.activated_attention |= from.activated_attention || (from.attention && is_activation(node));
            own.scan |= from.scan;
            own.memory |= from.memory;
            own.product |= from.product;
            own.lowest = std::min(own.lowest, from.lowest);
        }
        own.attention |= is_attention(node);
    }
    return known_[node] = own;
}

} // namespace ps
