#include "sample.h"

#include "llama-cpp.h"

#include <limits>
#include <vector>

namespace ps {

llama_token draw_token(const float * logits, int32_t n_vocab, const Sampling & sampling, uint32_t seed) {
    std::vector<llama_token_data> candidates;
    candidates.reserve(n_vocab);
    for (llama_token id = 0; id < n_vocab; ++id) {
        if (logits[id] > -std::numeric_limits<float>::infinity()) { // the samplers count on numbers
            candidates.push_back({id, logits[id], 0.0f});
        }
    }
    llama_sampler_ptr chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    if (sampling.top_k > 0) {
        llama_sampler_chain_add(chain.get(), llama_sampler_init_top_k(sampling.top_k));
    }
    if (sampling.top_p < 1.0f) {
        llama_sampler_chain_add(chain.get(), llama_sampler_init_top_p(sampling.top_p, 1));
    }
    llama_sampler_chain_add(chain.get(), llama_sampler_init_temp(sampling.temperature));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_dist(seed));
    llama_token_data_array array = {candidates.data(), candidates.size(), -1, false};
    llama_sampler_apply(chain.get(), &array);
    return array.data[array.selected].id;
}

} // namespace ps
