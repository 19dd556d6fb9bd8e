// Logits -> the few numbers that are asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ps {

// Log-probabilities are natural logarithms of the softmax over the whole vocabulary.
struct Reduced {
    std::vector<int32_t> top_ids;       // k, most probable first; equal logits by smaller id
    std::vector<float> top_logprobs;    // k
    std::vector<float> tracked_logprob; // one for each tracked token
    std::vector<int32_t> tracked_rank;  // 0 is the most probable token
    bool finite = false;                // false: some logit is NaN or +inf, and nothing else is set
};

// logits: (n_vocab); k is cut to n_vocab.
Reduced reduce_logits(const float * logits, int32_t n_vocab, int32_t k, const int32_t * tracked,
                      size_t n_tracked);

bool all_finite(const float * values, size_t n);

} // namespace ps
