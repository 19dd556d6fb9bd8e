// Which cell of the K/V cache holds the keys of which token. llama.cpp does not tell, but each decode is told
// where to write its keys.
#pragma once

#include "attention.h"

#include "llama.h"

#include <cstdint>
#include <map>
#include <set>
#include <vector>

namespace ps {

class KeyCells {
public:
    explicit KeyCells(const AttentionTable & table) : table_(table) {}

    // Begins a decode; both lists must outlive it.
    void arm(const std::vector<llama_seq_id> & sequences, const std::vector<llama_pos> & positions);
    // Takes in where the keys of the decode go, from the node that writes them, before it is computed.
    void before(const ggml_tensor * node);

    static constexpr int64_t UNKNOWN = -1;
    static constexpr int64_t GONE = -2; // out of a sliding window, and taken by a later token
    // Of the block's keys, counted in the sequence's stream.
    int64_t find(int il, llama_seq_id sequence, llama_pos position) const;

    void clear() { cells_.clear(); }
    void copy_sequence(llama_seq_id from, llama_seq_id to);
    void remove_sequence(llama_seq_id sequence, llama_pos first);

private:
    const AttentionTable & table_;
    const std::vector<llama_seq_id> * sequences_ = nullptr;
    const std::vector<llama_pos> * positions_ = nullptr;
    std::set<int> taken_in_;
    // by the first block of those that share cells; then by sequence and position
    std::map<int, std::map<llama_seq_id, std::vector<int64_t>>> cells_;
};

} // namespace ps
