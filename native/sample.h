// Draws a token from logits by llama.cpp's own samplers.
#pragma once

#include "llama.h"

#include <cstdint>

namespace ps {

// Applied in this order: the top_k most probable tokens (0: all), of these the most probable ones that
// together reach top_p, then the temperature.
struct Sampling {
    float temperature = 0.0f; // 0: the most probable token, nothing is drawn
    int32_t top_k = 0;
    float top_p = 1.0f;
};

// The same logits and seed give the same token. temperature > 0; the logits are finite or -inf, not all of
// them.
llama_token draw_token(const float * logits, int32_t n_vocab, const Sampling & sampling, uint32_t seed);

} // namespace ps
