// Logits -> the few numbers that are asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ps {

struct TokenScore {
    float logprob;
    int32_t rank; // 0 is the most probable token
};

// Log-probabilities are natural logarithms of the softmax over the whole vocabulary.
struct Reduced {
    std::vector<int32_t> top_ids;    // k, most probable first; equal logits by smaller id
    std::vector<float> top_logprobs; // k
    double log_total = 0.0;          // logarithm of the sum of all exponentials of logits
    bool finite = false;             // false: some logit is NaN or +inf, and nothing else is set
};

// logits: (n_vocab); k is cut to n_vocab.
Reduced reduce_logits(const float * logits, int32_t n_vocab, int32_t k);

TokenScore score_token(const float * logits, int32_t n_vocab, double log_total, int32_t token);

// Jensen-Shannon divergence of the softmaxes of two rows of logits, natural; NaN where one is not finite.
double divergence(const float * a, const float * b, int32_t n_vocab);

bool all_finite(const float * values, size_t n);

} // namespace ps
