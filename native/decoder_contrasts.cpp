// The part of a decoder that contrasts logits.
#include "contrast_states.h"
#include "decoder.h"
#include "lens.h"
#include "model_handle.h"
#include "parallel.h"

#include <algorithm>
#include <cmath>

namespace ps {

ContrastStates::ContrastStates(Step & step, int64_t n_embd)
    : step_(step), n_embd_(n_embd), n_asked_(step.reads.size()) {
    for (const LogitRead & read : step.logit_reads) {
        if (!read.contrast.has_value()) {
            continue;
        }
        for (const SiteKey & key : read.contrast->states) {
            auto site = std::find_if(step.reads.begin() + (std::ptrdiff_t)n_asked_, step.reads.end(),
                                     [&](const SiteRead & own) { return own.key == key; });
            if (site == step.reads.end()) {
                site = step.reads.insert(site, SiteRead{key, {}, nullptr, {}});
            }
            places_.push_back({(size_t)(site - step.reads.begin()), site->tokens.size()});
            site->tokens.push_back(read.token);
        }
    }
    values_.resize(places_.size() * (size_t)n_embd);
    float * next = values_.data();
    for (size_t i = n_asked_; i < step.reads.size(); ++i) {
        step.reads[i].states = next;
        next += step.reads[i].tokens.size() * (size_t)n_embd;
    }
}

ContrastStates::~ContrastStates() { step_.reads.resize(n_asked_); }

std::vector<ContrastState> ContrastStates::all() const {
    std::vector<ContrastState> states;
    for (const auto & [read, row] : places_) {
        const SiteRead & site = step_.reads[read];
        states.push_back({site.states + row * (size_t)n_embd_, site.finite[row] == 1});
    }
    return states;
}

Lens & Decoder::tail() {
    if (lens_ == nullptr) {
        lens_ = std::make_unique<Lens>(model_->model, ctx_,
                                       sites_->name({Site::resid_out, sites_->n_layer() - 1}),
                                       options_.streams ? options_.n_sequences : 1, options_.n_threads);
    }
    return *lens_;
}

std::vector<std::vector<float>> Decoder::farthest(const std::vector<const float *> & rows, const Step & step,
                                                  const std::vector<ContrastState> & states) {
    std::vector<std::vector<float>> found(rows.size());
    std::vector<double> distances(rows.size(), -1.0);
    std::vector<size_t> read_of; // each state's
    for (size_t i = 0; i < rows.size(); ++i) {
        const auto & contrast = step.logit_reads[i].contrast;
        read_of.insert(read_of.end(), contrast.has_value() ? contrast->states.size() : 0, i);
    }
    const size_t most = (size_t)step.read_options.lens_rows;
    for (size_t begin = 0; begin < states.size(); begin += most) {
        const size_t n = std::min(most, states.size() - begin);
        std::vector<float> batch(most * (size_t)n_embd_, 1.0f);
        for (size_t k = 0; k < n; ++k) {
            std::copy_n(states[begin + k].values, n_embd_, batch.data() + k * n_embd_);
        }
        const std::vector<float> & logits = tail().logits(batch.data(), (int32_t)most);
        std::vector<double> own(n);
        parallel_for((int)n, options_.n_threads, [&](int k) {
            // some devices lose NaN on its way
            own[k] = states[begin + k].finite ? divergence(rows[read_of[begin + k]],
                                                           logits.data() + (size_t)k * n_vocab_, n_vocab_)
                                              : NAN;
        });
        for (size_t k = 0; k < n; ++k) {
            const size_t read = read_of[begin + k];
            if (std::isnan(own[k])) {
                distances[read] = NAN;
                found[read].assign(n_vocab_, NAN);
            } else if (own[k] > distances[read]) { // never where that is NaN
                distances[read] = own[k];
                const float * row = logits.data() + k * (size_t)n_vocab_;
                found[read].assign(row, row + n_vocab_);
            }
        }
    }
    return found;
}

std::vector<const float *> Decoder::contrasted(std::vector<const float *> rows, const Step & step,
                                               const std::vector<ContrastState> & states,
                                               std::vector<std::vector<float>> & made) {
    made = farthest(rows, step, states);
    std::vector<const float *> others(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
        const auto & contrast = step.logit_reads[i].contrast;
        if (!contrast.has_value()) {
            continue;
        }
        if (contrast->states.empty()) {
            others[i] = logits_of(contrast->token);
            made[i].resize(n_vocab_);
        } else {
            others[i] = made[i].data();
        }
    }
    parallel_for((int)rows.size(), options_.n_threads, [&](int i) {
        if (others[i] != nullptr) {
            contrast_logits(rows[i], others[i], n_vocab_, step.logit_reads[i].contrast->weights,
                            made[i].data());
            rows[i] = made[i].data();
        }
    });
    return rows;
}

} // namespace ps
