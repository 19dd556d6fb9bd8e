#include "contrast.h"

#include "wide.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ps {

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();

PS_WIDE bool is_below_infinity(const float * x, int32_t n) {
    int found = 0;
    for (int32_t i = 0; i < n; ++i) {
        found |= x[i] < INF ? 0 : 1; // NaN too
    }
    return found == 0;
}

PS_WIDE void combine(const float * z, const float * other, int32_t n, float own, float difference,
                     float least, float * out) {
    for (int32_t i = 0; i < n; ++i) {
        const float value = own * z[i] + difference * (z[i] - other[i]);
        out[i] = z[i] < least || z[i] == -INF ? -INF : value;
    }
}

} // namespace

void contrast_logits(const float * z, const float * other, int32_t n, const ContrastWeights & weights,
                     float * out) {
    if (!is_below_infinity(z, n) || !is_below_infinity(other, n)) {
        std::fill(out, out + n, std::numeric_limits<float>::quiet_NaN());
        return;
    }
    const float largest = *std::max_element(z, z + n);
    const float least = (float)((double)largest + std::log((double)weights.cutoff)); // of 0: none is below
    combine(z, other, n, weights.own, weights.difference, least, out);
}

} // namespace ps
