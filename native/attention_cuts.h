// Cuts edges of attention during one decode, and counts those it cut.
#pragma once

#include "key_cells.h"

#include <map>
#include <string>
#include <vector>

namespace ps {

// In these blocks the tokens do not look at the earlier tokens of their own sequences that stand at `keys`. A
// token always looks at itself.
struct AttentionCut {
    std::vector<int32_t> layers;
    std::vector<int32_t> tokens; // of the batch
    std::vector<llama_pos> keys;
};

class AttentionCuts {
public:
    AttentionCuts(const AttentionTable & table, const KeyCells & cells) : table_(table), cells_(cells) {}

    // All three lists must outlive the decode.
    void arm(const std::vector<AttentionCut> & cuts, const std::vector<llama_seq_id> & sequences,
             const std::vector<llama_pos> & positions);
    // Throws Error("edit_mismatch") unless every planned edge was cut in every planned block.
    void disarm();

    // Before a node is computed: sets the mask of an attention as its block needs it. Returns whether all up
    // to the node has to be computed before the next node is asked about.
    bool before(const ggml_tensor * node);
    // Everything up to some node is computed.
    void computed();

private:
    using MaskRow = std::vector<uint8_t>;
    struct Mask {
        std::map<int32_t, MaskRow> as_given; // rows by their token
        bool in_use = false;                 // by a node that may not be computed yet
    };
    void set(ggml_tensor * mask, int il);
    bool cut_row(MaskRow & row, size_t width, int il, int32_t token);
    void fail(const std::string & reason);

    const AttentionTable & table_;
    const KeyCells & cells_;
    const std::vector<AttentionCut> * cuts_ = nullptr;
    const std::vector<llama_seq_id> * sequences_ = nullptr;
    const std::vector<llama_pos> * positions_ = nullptr;
    std::map<int32_t, std::vector<const AttentionCut *>> of_token_;
    std::vector<std::vector<const AttentionCut *>> of_block_;
    std::vector<size_t> planned_; // edges by block
    std::vector<size_t> cut_;
    std::map<const ggml_tensor *, Mask> masks_;
    std::string failure_;
};

} // namespace ps
