// The graph callback of one decode: reads rows of states and overwrites them while the graph runs.
// It is armed for one decode and counts what it did; it knows no JavaScript.
#pragma once

#include "edit.h"
#include "sites.h"

#include "ggml.h"

#include <cstdint>
#include <string>
#include <vector>

namespace ps {

// Rows of a site by their token index in the batch.
struct SiteRead {
    SiteKey key;
    std::vector<int32_t> tokens;
    float * states;              // out: (tokens, n_embd) row-major, the caller's memory
    std::vector<uint8_t> finite; // out: 0 where a row holds NaN or infinity
};

// One site may have several, of different ops, but each of its rows is written once.
struct SiteWrite {
    SiteKey key;
    EditOp op;
    std::vector<int32_t> tokens;
    std::vector<float> alphas;  // (tokens)
    std::vector<float> vectors; // (tokens, n_embd) row-major; empty where the op needs none
};

// What is done to states while tokens are computed.
struct StateWork {
    std::vector<SiteRead> reads;
    std::vector<SiteWrite> writes;
};

class Tap {
public:
    Tap(const SiteTable & sites, int64_t n_embd) : sites_(sites), n_embd_(n_embd) {}

    // `output_index`: for each token of the batch its place among the tokens whose logits are asked
    // for, or -1. Both lists must outlive the decode.
    void arm(std::vector<SiteRead> & reads, const std::vector<SiteWrite> & writes,
             std::vector<int32_t> output_index);

    // Ends the decode. Throws Error("edit_mismatch") unless every planned row was read and written once.
    void disarm();

    // ggml_backend_sched_eval_callback; `self` is a Tap.
    static bool on_node(ggml_tensor * node, bool ask, void * self);

private:
    bool wants(ggml_tensor * node);
    void visit(ggml_tensor * node);
    void write(ggml_tensor * node, const SiteWrite & write, const std::vector<int32_t> & rows);
    int32_t row_of(const ggml_tensor * node, int32_t token, const SiteKey & key);
    void fail(const std::string & reason);

    const SiteTable & sites_;
    const int64_t n_embd_;
    NodeList before_;                  // nodes of this decode that were asked about
    const SiteKey * wanted_ = nullptr; // site of the node that was asked about last
    std::vector<SiteRead> * reads_ = nullptr;
    const std::vector<SiteWrite> * writes_ = nullptr;
    std::vector<int32_t> output_index_;
    int32_t n_outputs_ = 0;
    // rows read and written so far, one count for each entry of the two lists
    std::vector<size_t> rows_read_;
    std::vector<size_t> rows_written_;
    std::string failure_;
    std::vector<float> edited_;
};

} // namespace ps
