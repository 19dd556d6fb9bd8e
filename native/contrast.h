// The logits of one row compared with those of another.
#pragma once

#include <cstdint>

namespace ps {

struct ContrastWeights {
    float own = 1.0f;
    float difference = 0.0f;
    float cutoff = 0.0f; // from 0 to 1
};

// out: (n), own z + difference (z - other); -inf where the probability by z is below the cutoff times the
// largest one. All of it is NaN where z or other holds NaN or +inf.
void contrast_logits(const float * z, const float * other, int32_t n, const ContrastWeights & weights,
                     float * out);

} // namespace ps
