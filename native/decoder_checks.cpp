// What a decoder refuses before llama.cpp, which would end the process on most of it, sees it.
#include "decoder.h"

#include "error.h"
#include "model_handle.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

namespace ps {

namespace {

[[noreturn]] void refuse(const std::string & reason) { throw Error("engine", reason); }

void check_site(const SiteKey & key, const SiteTable & sites) {
    if (key.layer < 0 || key.layer >= sites.n_layer()) {
        refuse("Layer " + std::to_string(key.layer) + " is not one of the model's " +
               std::to_string(sites.n_layer()) + ".");
    }
    if (!sites.has(key)) {
        throw Error("no_site", "The model has no " + to_string(key) + ": " + sites.reason(key) + ".");
    }
}

} // namespace

void Decoder::check(const Step & step) const {
    const size_t n = step.tokens.size();
    check_size("A decode", n, options_.n_batch);
    if (step.positions.size() != n || step.sequences.size() != n || step.outputs.size() != n) {
        refuse("Tokens, positions, sequences and outputs must be lists of one length.");
    }
    check_tokens(step.tokens);
    std::vector<llama_pos> next(options_.n_sequences, -1);
    llama_memory_t memory = llama_get_memory(ctx_);
    for (size_t i = 0; i < n; ++i) {
        const llama_seq_id sequence = step.sequences[i];
        check_sequence(sequence);
        if (encoder_sites_ != nullptr && encoded_.count(sequence) == 0) {
            refuse("Nothing was encoded for sequence " + std::to_string(sequence) + ".");
        }
        if (next[sequence] < 0) {
            next[sequence] = memory != nullptr ? llama_memory_seq_pos_max(memory, sequence) + 1 : 0;
        }
        if (step.positions[i] != next[sequence]++) {
            refuse("Position " + std::to_string(step.positions[i]) + " of sequence " +
                   std::to_string(sequence) + " does not follow the one before.");
        }
    }
    if (options_.streams) {
        check_streams(step.sequences);
    }
    const auto n_outputs = std::count(step.outputs.begin(), step.outputs.end(), 1);
    if (n_outputs > (int64_t)options_.n_outputs) {
        refuse("A decode computes the logits of at most " + std::to_string(options_.n_outputs) +
               " tokens, not " + std::to_string(n_outputs) + ".");
    }
    check_states(step, n, *sites_);
    check_cuts(step.cuts, n);
    check_tokens(step.read_options.tracked);
    for (const LogitRead & read : step.logit_reads) {
        if (read.token < 0 || read.token >= (int32_t)n || step.outputs[read.token] != 1) {
            refuse("The logits of row " + std::to_string(read.token) + " were not asked for.");
        }
        if (read.given != -1) {
            check_tokens({read.given});
        }
        check_tokens(read.tracked);
        if (read.contrast.has_value()) {
            check_contrast(*read.contrast, step);
        }
    }
    if (step.read_options.lens_rows < 1) {
        refuse("At least one state goes through the graph's end at once.");
    }
}

void Decoder::check_contrast(const LogitContrast & contrast, const Step & step) const {
    const auto & [own, difference, cutoff] = contrast.weights;
    if (!std::isfinite(own) || !std::isfinite(difference) || !(cutoff >= 0.0f && cutoff <= 1.0f)) {
        refuse("The weights of a contrast are numbers, and its cutoff one from 0 to 1.");
    }
    const int32_t token = contrast.token;
    if (contrast.states.empty()) {
        if (token < 0 || token >= (int32_t)step.tokens.size() || step.outputs[token] != 1) {
            refuse("The logits of row " + std::to_string(token) + " were not asked for.");
        }
    } else if (token != -1) {
        refuse("A contrast is with a row or with states, not with both.");
    }
    for (const SiteKey & key : contrast.states) {
        check_site(key, *sites_);
    }
}

void Decoder::check(const EncodeStep & step) const {
    if (encoder_sites_ == nullptr) {
        refuse("The model has no encoder.");
    }
    // llama.cpp takes no more tokens at once than there are cells
    check_size("An encode", step.tokens.size(), llama_n_ubatch(ctx_));
    check_tokens(step.tokens);
    for (llama_seq_id sequence : step.sequences) {
        check_sequence(sequence);
    }
    if (step.sequences.empty() ||
        std::set(step.sequences.begin(), step.sequences.end()).size() != step.sequences.size()) {
        refuse("An encode is for one sequence or more, each named once.");
    }
    check_states(step, step.tokens.size(), *encoder_sites_);
}

void Decoder::check_size(const char * name, size_t n_tokens, uint32_t most) const {
    if (aborted_) {
        throw Error("closed", "The context was closed.");
    }
    if (n_tokens == 0 || n_tokens > most) {
        refuse(std::string(name) + " takes 1 to " + std::to_string(most) + " tokens, not " +
               std::to_string(n_tokens) + ".");
    }
}

void Decoder::check_sequence(llama_seq_id sequence) const {
    if (sequence < 0 || sequence >= (llama_seq_id)options_.n_sequences) {
        refuse("Sequence " + std::to_string(sequence) + " is not one of the context's " +
               std::to_string(options_.n_sequences) + ".");
    }
}

void Decoder::check_streams() const {
    const llama_model * model = model_->model;
    if (options_.streams &&
        (llama_model_is_recurrent(model) || llama_model_is_hybrid(model) || llama_model_has_encoder(model))) {
        refuse("A model with an encoder or a recurrent state has no streams.");
    }
}

// llama.cpp cuts a batch of any other shape into pieces, and rows are told by their place in one piece.
void Decoder::check_streams(const std::vector<llama_seq_id> & sequences) const {
    const size_t length = std::count(sequences.begin(), sequences.end(), sequences.front());
    for (size_t i = 0; i < sequences.size(); ++i) {
        if (sequences[i] != sequences.front() + (llama_seq_id)(i / length) ||
            sequences.size() % length != 0) {
            refuse("A decode of streams takes neighbouring sequences one after the other, each with as many "
                   "tokens.");
        }
    }
}

void Decoder::check_states(const StateWork & states, size_t n_tokens, const SiteTable & sites) const {
    const auto check_rows = [&](const SiteKey & key, const std::vector<int32_t> & rows) {
        check_site(key, sites);
        for (int32_t row : rows) {
            if (row < 0 || row >= (int32_t)n_tokens) {
                refuse("Row " + std::to_string(row) + " is outside the batch of " + std::to_string(n_tokens) +
                       ".");
            }
        }
    };
    for (const SiteRead & read : states.reads) {
        check_rows(read.key, read.tokens);
    }
    for (const SiteWrite & write : states.writes) {
        const std::string place = to_string(write.key);
        check_rows(write.key, write.tokens);
        if (write.key.site == Site::final_norm && &sites == sites_.get()) {
            throw Error("no_site", "The final norm is read, not written: write at the last layer's output.");
        }
        std::set<int32_t> written; // of writes of one place the later ones meet what the earlier ones made
        for (int32_t row : write.tokens) {
            if (!written.insert(row).second) {
                refuse("Row " + std::to_string(row) + " is written twice at " + place + ".");
            }
        }
        const size_t n_floats = needs_vector(write.op) ? write.tokens.size() * n_embd_ : 0;
        if (write.vectors.size() != n_floats || write.alphas.size() != write.tokens.size()) {
            refuse("One number and one vector of width " + std::to_string(n_embd_) +
                   " are needed for each row at " + place + ".");
        }
        if (!all_finite(write.vectors.data(), write.vectors.size()) ||
            !all_finite(write.alphas.data(), write.alphas.size())) {
            throw Error("not_finite", "What is to be written at " + place + " holds NaN or infinity.");
        }
    }
}

void Decoder::check_cuts(const std::vector<AttentionCut> & cuts, size_t n_tokens) const {
    for (const AttentionCut & cut : cuts) {
        for (int32_t il : cut.layers) {
            if (il < 0 || il >= attention_->n_layer()) {
                refuse("Layer " + std::to_string(il) + " is not one of the model's " +
                       std::to_string(attention_->n_layer()) + ".");
            }
            if (!attention_->reason(il).empty()) {
                throw Error("no_site", "No edge of attention can be cut at layer " + std::to_string(il) +
                                           ": " + attention_->reason(il) + ".");
            }
        }
        for (int32_t token : cut.tokens) {
            if (token < 0 || token >= (int32_t)n_tokens) {
                refuse("Row " + std::to_string(token) + " is outside the batch of " +
                       std::to_string(n_tokens) + ".");
            }
        }
        if (std::any_of(cut.keys.begin(), cut.keys.end(), [](llama_pos key) { return key < 0; })) {
            refuse("A position before the first can't be cut.");
        }
    }
}

void Decoder::check_tokens(const std::vector<llama_token> & tokens) const {
    for (llama_token token : tokens) {
        if (token < 0 || token >= n_vocab_) {
            refuse("Token id " + std::to_string(token) + " is outside the vocabulary of " +
                   std::to_string(n_vocab_) + ".");
        }
    }
}

} // namespace ps
