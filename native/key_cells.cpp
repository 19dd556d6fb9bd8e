#include "key_cells.h"

#include "ggml-backend.h"

#include <algorithm>

namespace ps {

void KeyCells::arm(const std::vector<llama_seq_id> & sequences, const std::vector<llama_pos> & positions) {
    sequences_ = &sequences;
    positions_ = &positions;
    taken_in_.clear();
}

void KeyCells::before(const ggml_tensor * node) {
    if (node->op != GGML_OP_SET_ROWS || sequences_ == nullptr) {
        return;
    }
    const int il = key_cache_of(node->src[2]);
    if (il < 0 || il >= table_.n_layer() || table_.cells(il) != il || !taken_in_.insert(il).second) {
        return;
    }
    const ggml_tensor * cells = node->src[1];
    const size_t n = sequences_->size();
    if (cells->type != GGML_TYPE_I64 || ggml_nelements(cells) != (int64_t)n) {
        taken_in_.erase(il); // its tokens stay unknown
        return;
    }
    std::vector<int64_t> written(n);
    ggml_backend_tensor_get(cells, written.data(), 0, n * sizeof(int64_t));
    // the cells of all streams are numbered on; each stream has as many
    const ggml_tensor * cache = node->src[2];
    while (cache->src[0] != nullptr) {
        cache = cache->src[0];
    }
    const int64_t n_cells = cache->ne[1];
    for (size_t i = 0; i < n; ++i) {
        std::vector<int64_t> & own = cells_[il][(*sequences_)[i]];
        const int64_t cell = written[i] % n_cells;
        std::replace(own.begin(), own.end(), cell, GONE);
        own.resize((*positions_)[i], UNKNOWN);
        own.push_back(cell);
    }
}

int64_t KeyCells::find(int il, llama_seq_id sequence, llama_pos position) const {
    const auto of_block = cells_.find(table_.cells(il));
    if (of_block == cells_.end()) {
        return UNKNOWN;
    }
    const auto own = of_block->second.find(sequence);
    return own != of_block->second.end() && position < (llama_pos)own->second.size() ? own->second[position]
                                                                                     : UNKNOWN;
}

void KeyCells::copy_sequence(llama_seq_id from, llama_seq_id to) {
    for (auto & [il, sequences] : cells_) {
        sequences[to] = sequences[from];
    }
}

void KeyCells::remove_sequence(llama_seq_id sequence, llama_pos first) {
    for (auto & [il, sequences] : cells_) {
        std::vector<int64_t> & own = sequences[sequence];
        own.resize(std::min(own.size(), (size_t)std::max(first, 0)));
    }
}

} // namespace ps
