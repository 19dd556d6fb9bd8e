#include "reduce.h"

#include "wide.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace ps {

namespace {

constexpr int BLOCK = 256;

PS_WIDE float block_max(const float * x, int n) {
    float lanes[8];
    for (float & lane : lanes) {
        lane = -std::numeric_limits<float>::infinity();
    }
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        for (int j = 0; j < 8; ++j) {
            lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
        }
    }
    for (; i < n; ++i) {
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    }
    return *std::max_element(lanes, lanes + 8);
}

PS_WIDE bool any_nan(const float * x, int n) {
    int found = 0;
    for (int i = 0; i < n; ++i) {
        found |= x[i] != x[i] ? 1 : 0;
    }
    return found != 0;
}

// exp(x) for x <= 0, as straight-line code that compilers vectorize: range reduction to
// |r| <= ln(2)/2 and the Taylor series of degree 7; relative error below 3e-7.
inline float exp_of_negative(float x) {
    x = x > -87.0f ? x : -87.0f;
    const int k = (int)(x * 1.44269504f - 0.5f);
    const float r = (x - (float)k * 0.693359375f) + (float)k * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const int32_t bits = (k + 127) << 23;
    float power_of_two;
    std::memcpy(&power_of_two, &bits, sizeof bits);
    return p * power_of_two;
}

// Sum of exp(x - max) over at most BLOCK values. Two loops, since compilers vectorize the first only
// where nothing is summed in it.
PS_WIDE float sum_exp(const float * x, int n, float max) {
    float terms[BLOCK];
    for (int i = 0; i < n; ++i) {
        terms[i] = exp_of_negative(x[i] - max);
    }
    for (int i = n; i < BLOCK; ++i) {
        terms[i] = 0.0f;
    }
    float lanes[8] = {0};
    for (int i = 0; i < BLOCK; i += 8) {
        for (int j = 0; j < 8; ++j) {
            lanes[j] += terms[i + j];
        }
    }
    float total = 0.0f;
    for (float lane : lanes) {
        total += lane;
    }
    return total;
}

// log(x) for normal x > 0, as straight-line code too: x = 2^k m with m near 1, and the series of atanh;
// absolute error below 2e-7 beside the rounding of the result.
inline float log_of_positive(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const int32_t k = (bits - 0x3f3504f3) >> 23; // m from sqrt(1/2) to sqrt(2)
    bits -= k * (1 << 23);
    float m;
    std::memcpy(&m, &bits, sizeof m);
    const float s = (m - 1.0f) / (m + 1.0f);
    const float s2 = s * s;
    float p = 1.0f / 9.0f;
    p = p * s2 + 1.0f / 7.0f;
    p = p * s2 + 1.0f / 5.0f;
    p = p * s2 + 1.0f / 3.0f;
    p = p * s2 + 1.0f;
    return (float)k * 0.693147181f + 2.0f * s * p;
}

// Terms of the divergence of two distributions, over at most BLOCK logits.
PS_WIDE float sum_divergence(const float * a, const float * b, int n, float total_a, float total_b) {
    float terms[BLOCK];
    for (int i = 0; i < n; ++i) {
        const float log_p = std::max(a[i] - total_a, -86.0f), log_q = std::max(b[i] - total_b, -86.0f);
        const float p = exp_of_negative(log_p), q = exp_of_negative(log_q);
        const float log_m = log_of_positive(0.5f * (p + q));
        terms[i] = 0.5f * (p * (log_p - log_m) + q * (log_q - log_m));
    }
    float total = 0.0f;
    for (int i = 0; i < n; ++i) {
        total += terms[i];
    }
    return total;
}

PS_WIDE int32_t count_above(const float * x, int n, float bound) {
    int32_t count = 0;
    for (int i = 0; i < n; ++i) {
        count += x[i] > bound ? 1 : 0;
    }
    return count;
}

} // namespace

Reduced reduce_logits(const float * logits, int32_t n_vocab, int32_t k) {
    Reduced out;
    k = std::min(k, n_vocab);

    struct Candidate {
        float logit;
        int32_t id;
    };
    const auto better = [](const Candidate & a, const Candidate & b) {
        return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    };
    float max = -std::numeric_limits<float>::infinity();
    std::vector<Candidate> heap; // of the k best so far, the worst in front
    heap.reserve(k + 1);
    for (int begin = 0; begin < n_vocab; begin += BLOCK) {
        const int n = std::min(BLOCK, n_vocab - begin);
        if (any_nan(logits + begin, n)) {
            return out;
        }
        const float best = block_max(logits + begin, n);
        max = std::max(max, best);
        if ((int32_t)heap.size() == k && (k == 0 || best <= heap.front().logit)) {
            continue; // an equal logit has a larger id than the kept ones
        }
        for (int i = begin; i < begin + n; ++i) {
            const Candidate candidate{logits[i], i};
            if ((int32_t)heap.size() < k) {
                heap.push_back(candidate);
                std::push_heap(heap.begin(), heap.end(), better);
            } else if (better(candidate, heap.front())) {
                std::pop_heap(heap.begin(), heap.end(), better);
                heap.back() = candidate;
                std::push_heap(heap.begin(), heap.end(), better);
            }
        }
    }
    if (!std::isfinite(max)) {
        return out;
    }
    double total = 0.0;
    for (int begin = 0; begin < n_vocab; begin += BLOCK) {
        total += sum_exp(logits + begin, std::min(BLOCK, n_vocab - begin), max);
    }
    out.log_total = max + std::log(total);
    std::sort(heap.begin(), heap.end(), better);
    for (const Candidate & candidate : heap) {
        out.top_ids.push_back(candidate.id);
        out.top_logprobs.push_back((float)((double)candidate.logit - out.log_total));
    }
    out.finite = true;
    return out;
}

TokenScore score_token(const float * logits, int32_t n_vocab, double log_total, int32_t token) {
    const float logit = logits[token];
    const int32_t equal_before = (int32_t)std::count(logits, logits + token, logit); // by smaller id
    return {(float)((double)logit - log_total), count_above(logits, n_vocab, logit) + equal_before};
}

double divergence(const float * a, const float * b, int32_t n_vocab) {
    const Reduced of_a = reduce_logits(a, n_vocab, 0), of_b = reduce_logits(b, n_vocab, 0);
    if (!of_a.finite || !of_b.finite) {
        return std::numeric_limits<double>::quiet_NaN();
    }
    double total = 0.0;
    for (int begin = 0; begin < n_vocab; begin += BLOCK) {
        total += sum_divergence(a + begin, b + begin, std::min(BLOCK, n_vocab - begin), (float)of_a.log_total,
                                (float)of_b.log_total);
    }
    return total;
}

PS_WIDE bool all_finite(const float * values, size_t n) {
    int found = 0;
    for (size_t i = 0; i < n; ++i) {
        const float magnitude = values[i] < 0.0f ? -values[i] : values[i];
        found |= magnitude <= std::numeric_limits<float>::max() ? 0 : 1;
    }
    return found == 0;
}

} // namespace ps
