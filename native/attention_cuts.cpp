#include "attention_cuts.h"

#include "error.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace ps {

namespace {

template <class List, class T> bool contains(const List & list, const T & value) {
    return std::find(list.begin(), list.end(), value) != list.end();
}

} // namespace

void AttentionCuts::arm(const std::vector<AttentionCut> & cuts, const std::vector<llama_seq_id> & sequences,
                        const std::vector<llama_pos> & positions) {
    cuts_ = &cuts;
    sequences_ = &sequences;
    positions_ = &positions;
    of_token_.clear();
    of_block_.assign(table_.n_layer(), {});
    planned_.assign(table_.n_layer(), 0);
    cut_.assign(table_.n_layer(), 0);
    masks_.clear();
    failure_.clear();
    for (const AttentionCut & cut : cuts) {
        size_t edges = 0;
        for (int32_t token : cut.tokens) {
            of_token_[token].push_back(&cut);
            edges += std::count_if(cut.keys.begin(), cut.keys.end(),
                                   [&](llama_pos key) { return key < positions[token]; });
        }
        for (int32_t il : cut.layers) {
            of_block_[il].push_back(&cut);
            planned_[il] += edges;
        }
    }
}

void AttentionCuts::disarm() {
    if (std::exchange(cuts_, nullptr) == nullptr) {
        return;
    }
    if (!failure_.empty()) {
        throw Error("edit_mismatch", failure_);
    }
    for (int il = 0; il < table_.n_layer(); ++il) {
        if (cut_[il] != planned_[il]) {
            throw Error("edit_mismatch", "Of " + std::to_string(planned_[il]) +
                                             " edges of attention planned to be cut at layer " +
                                             std::to_string(il) + " " + std::to_string(cut_[il]) +
                                             " were: the results are thrown away.");
        }
    }
}

bool AttentionCuts::before(const ggml_tensor * node) {
    if (of_token_.empty() || cuts_ == nullptr || !failure_.empty()) {
        return false;
    }
    const int il = attention_block(node);
    if (il < 0 || il >= table_.n_layer()) {
        return false;
    }
    ggml_tensor * mask = mask_of(node);
    set(mask, il);
    masks_[mask].in_use = true;
    const int next = table_.next(il);
    return next < table_.n_layer() && of_block_[il] != of_block_[next];
}

void AttentionCuts::computed() {
    for (auto & [tensor, mask] : masks_) {
        mask.in_use = false;
    }
}

// The rows are compared before they are written: the scheduler may have given a copy of the mask its first
// values again.
void AttentionCuts::set(ggml_tensor * mask, int il) {
    const int64_t n_streams = mask->ne[3];
    const int64_t per_stream = (int64_t)sequences_->size() / n_streams;
    const size_t width = ggml_type_size(mask->type);
    if ((mask->type != GGML_TYPE_F16 && mask->type != GGML_TYPE_F32) || mask->ne[2] != 1 ||
        mask->ne[1] < per_stream || per_stream * n_streams != (int64_t)sequences_->size() ||
        !ggml_is_contiguous(mask)) {
        return fail("The attention mask of layer " + std::to_string(il) +
                    " has changed its shape: nothing was cut there.");
    }
    Mask & known = masks_[mask];
    for (const auto & [token, cuts] : of_token_) {
        const size_t offset = (token / per_stream) * mask->nb[3] + (token % per_stream) * mask->nb[1];
        MaskRow row(mask->ne[0] * width);
        ggml_backend_tensor_get(mask, row.data(), offset, row.size());
        const MaskRow & as_given = known.as_given.emplace(token, row).first->second;
        MaskRow wanted = as_given;
        if (!cut_row(wanted, width, il, token)) {
            return;
        }
        if (wanted == row) {
            continue;
        }
        if (known.in_use) {
            return fail("The attention mask of layer " + std::to_string(il) +
                        " is still in use by another layer: nothing was cut there.");
        }
        ggml_backend_tensor_set(mask, wanted.data(), offset, wanted.size());
    }
}

bool AttentionCuts::cut_row(MaskRow & row, size_t width, int il, int32_t token) {
    const float none = -INFINITY;
    const uint16_t none_16 = 0xFC00; // the same as a half
    for (const AttentionCut * cut : of_token_.at(token)) {
        if (!contains(cut->layers, il)) {
            continue;
        }
        for (llama_pos key : cut->keys) {
            if (key >= (*positions_)[token]) {
                continue;
            }
            const int64_t cell = cells_.find(il, (*sequences_)[token], key);
            if (cell == KeyCells::UNKNOWN || cell >= (int64_t)(row.size() / width)) {
                fail("Where the keys of position " + std::to_string(key) + " lie at layer " +
                     std::to_string(il) + " is not known: nothing was cut there.");
                return false;
            }
            if (cell != KeyCells::GONE) {
                std::memcpy(row.data() + cell * width,
                            width == sizeof(float) ? (const void *)&none : (const void *)&none_16, width);
            }
            ++cut_[il];
        }
    }
    return true;
}

void AttentionCuts::fail(const std::string & reason) {
    if (failure_.empty()) {
        failure_ = reason;
    }
}

} // namespace ps
