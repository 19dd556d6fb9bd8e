#include "decoder.h"

#include "assertions.h"
#include "contrast_states.h"
#include "error.h"
#include "graph_check.h"
#include "lens.h"
#include "log.h"
#include "model_handle.h"
#include "parallel.h"
#include "whole_graph.h"

#include "llama-ext.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace ps {

namespace {

bool on_abort(void * aborted) { return *static_cast<std::atomic<bool> *>(aborted); }

// Of all streams, as llama.cpp counts them.
uint32_t all_cells(const DecoderOptions & options) {
    const uint64_t cells = (uint64_t)options.n_ctx * (options.streams ? options.n_sequences : 1);
    if (cells > INT32_MAX) {
        throw Error("out_of_memory", "A context of " + std::to_string(cells) +
                                         " cells is more than llama.cpp can count; use a smaller -c or fewer "
                                         "rows.");
    }
    return (uint32_t)cells;
}

} // namespace

// The graph callback: it has to be given when the context is made, before the sites are known.
bool Decoder::on_node(ggml_tensor * node, bool ask, void * self) {
    auto * decoder = static_cast<Decoder *>(self);
    if (ask && decoder->seen_ != nullptr) {
        decoder->see(node);
    }
    if (decoder->armed_ == nullptr) {
        return !ask;
    }
    const bool wanted = decoder->armed_ == decoder->tap_.get() && decoder->watch_attention(node, ask);
    return Tap::on_node(node, ask, decoder->armed_) || wanted;
}

bool Decoder::watch_attention(ggml_tensor * node, bool ask) {
    if (!ask) {
        cuts_->computed();
        return false;
    }
    key_cells_->before(node);
    return cuts_->before(node);
}

// Nodes are asked about before they are computed. No device but the CPU can be told to stop, so a node that
// can't be computed, and each after it, is made one that does nothing.
void Decoder::see(ggml_tensor * node) {
    seen_->push_back(node);
    try {
        if (!refusal_.has_value()) {
            check_node(node);
        }
    } catch (const Error & error) { // none may pass through ggml
        refusal_ = error;
    }
    if (refusal_.has_value()) {
        node->op = GGML_OP_NONE;
    }
}

Decoder::Decoder(std::shared_ptr<ModelHandle> model, const DecoderOptions & options)
    : model_(std::move(model)), options_(options) {
    check_streams();
    llama_context_params params = llama_context_default_params();
    params.n_ctx = all_cells(options_);
    params.n_batch = options_.n_batch;
    params.n_ubatch = options_.n_batch;
    params.n_seq_max = options_.n_sequences;
    // llama.cpp reserves an output for each sequence, and ends the process where there are fewer
    params.n_outputs_max = std::max(options_.n_outputs, options_.n_sequences);
    params.n_threads = options_.n_threads;
    params.n_threads_batch = options_.n_threads;
    params.flash_attn_type =
        options_.flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = options_.type_k;
    params.type_v = options_.type_v;
    params.kv_unified = !options_.streams;
    params.swa_full = true; // sequences are cut back and copied, which a windowed cache can't do
    params.no_perf = true;
    params.cb_eval = on_node;
    params.cb_eval_user_data = this;
    params.abort_callback = on_abort;
    params.abort_callback_data = &aborted_;

    log_take();
    const AssertionGuard guard;
    ctx_ = llama_init_from_model(model_->model, params);
    if (ctx_ == nullptr && guard.tripped()) {
        throw Error("bad_model", with_log("The model's graph can't be built"));
    }
    if (ctx_ == nullptr) {
        throw Error("out_of_memory",
                    with_log("A context of " + std::to_string(options_.n_ctx) +
                             " cells could not be made; use a smaller -c, fewer rows, or another K/V type"));
    }
    try {
        std::optional<AdapterUse> use;
        if (options_.adapter != nullptr && options_.adapter_scale != 0.0f) {
            llama_adapter_lora * lora = options_.adapter->lora;
            llama_set_adapters_lora(ctx_, &lora, 1, &options_.adapter_scale);
            use.emplace(*options_.adapter);
        }
        n_embd_ = llama_model_n_embd(model_->model);
        n_vocab_ = llama_vocab_n_tokens(llama_model_get_vocab(model_->model));
        // llama.cpp builds this graph over all streams, whose tokens are as many in each
        const uint32_t n_streams = options_.streams ? options_.n_sequences : 1;
        const uint32_t n_tokens = std::max(n_streams, std::min<uint32_t>(4, llama_n_batch(ctx_)));
        ggml_cgraph * graph = whole_graph(ctx_, n_tokens, n_streams, std::min<uint32_t>(2, n_tokens));
        check_graph(graph);
        if (use) {
            use->add(graph);
        }
        sites_ = label_sites(graph, model_->n_layer(), n_embd_);
        attention_ = std::make_unique<AttentionTable>(graph, model_->n_layer());
        key_cells_ = std::make_unique<KeyCells>(*attention_);
        cuts_ = std::make_unique<AttentionCuts>(*attention_, *key_cells_);
        tap_ = std::make_unique<Tap>(*sites_, n_embd_);
        if (model_->n_encoder_layer() > 0) {
            if (ggml_graph_get_tensor(graph, "cross_embd") == nullptr) {
                throw Error("no_site", "The decoder of this architecture does not attend to what its "
                                       "encoder gives.");
            }
            label_encoder(use ? &*use : nullptr);
        }
        if (use) {
            use->check();
        }
    } catch (...) {
        llama_free(ctx_);
        throw;
    }
}

// llama.cpp reserves the decoder's graph alone, so the encoder's is seen while it runs.
void Decoder::label_encoder(AdapterUse * use) {
    std::vector<ggml_tensor *> nodes;
    seen_ = &nodes;
    const int32_t status = run_encoder(std::vector<llama_token>(std::min(4u, llama_n_ubatch(ctx_)), 0), {0});
    seen_ = nullptr;
    if (refusal_.has_value()) {
        throw *refusal_;
    }
    if (status != 0) {
        throw Error("engine", with_log("The encoder could not be run"));
    }
    const SeenGraph seen = seen_graph(nodes);
    if (use != nullptr) {
        use->add(seen.graph);
    }
    encoder_sites_ = label_sites(seen.graph, model_->n_encoder_layer(), n_embd_);
    encoder_tap_ = std::make_unique<Tap>(*encoder_sites_, n_embd_);
}

Decoder::~Decoder() {
    lens_.reset();
    llama_free(ctx_);
}

size_t Decoder::memory_bytes() const {
    size_t bytes = 0;
    for (const auto & [type, memory] : llama_get_memory_breakdown(ctx_)) {
        bytes += memory.context;
    }
    return bytes;
}

LogitResults Decoder::decode(Step & step) {
    check(step);
    const int32_t n = (int32_t)step.tokens.size();
    std::vector<int32_t> n_seq(n, 1);
    std::vector<llama_seq_id *> seq_ids(n);
    std::vector<int32_t> output_index(n, -1);
    int32_t n_outputs = 0;
    for (int32_t i = 0; i < n; ++i) {
        seq_ids[i] = &step.sequences[i];
        if (step.outputs[i] == 1) {
            output_index[i] = n_outputs++;
        }
    }
    llama_batch batch = {
        n,
        step.tokens.data(),
        nullptr,
        step.positions.data(),
        n_seq.data(),
        seq_ids.data(),
        step.outputs.data(),
    };

    key_cells_->arm(step.sequences, step.positions);
    cuts_->arm(step.cuts, step.sequences, step.positions);
    ContrastStates states(step, n_embd_);
    compute(*tap_, step, std::move(output_index), "decode", [&] { return llama_decode(ctx_, batch); });
    cuts_->disarm();
    std::vector<const float *> rows;
    for (const LogitRead & read : step.logit_reads) {
        rows.push_back(logits_of(read.token));
    }
    std::vector<std::vector<float>> made;
    rows = contrasted(std::move(rows), step, states.all(), made);
    return reduce(rows, step.logit_reads, step.read_options);
}

const float * Decoder::logits_of(int32_t token) const {
    const float * logits = llama_get_logits_ith(ctx_, token);
    if (logits == nullptr) {
        throw Error("engine", with_log("The logits of row " + std::to_string(token) + " are missing"));
    }
    return logits;
}

void Decoder::encode(EncodeStep & step) {
    encoded_.clear();
    check(step);
    std::vector<int32_t> output_index(step.tokens.size()); // all of them go on to the decoder
    std::iota(output_index.begin(), output_index.end(), 0);
    compute(*encoder_tap_, step, std::move(output_index), "encode",
            [&] { return run_encoder(step.tokens, step.sequences); });
    // some devices lose NaN on its way through attention, so what the decoder says would not show it
    const float * output = llama_get_embeddings(ctx_);
    if (output == nullptr || !all_finite(output, step.tokens.size() * n_embd_)) {
        throw Error("not_finite", "What the encoder gives the decoder holds NaN or infinity.");
    }
    encoded_.insert(step.sequences.begin(), step.sequences.end());
}

int32_t Decoder::run_encoder(std::vector<llama_token> tokens, std::vector<llama_seq_id> sequences) {
    const int32_t n = (int32_t)tokens.size();
    std::vector<llama_pos> positions(n);
    std::iota(positions.begin(), positions.end(), 0);
    std::vector<int32_t> n_seq(n, (int32_t)sequences.size());
    std::vector<llama_seq_id *> seq_ids(n, sequences.data());
    return llama_encode(ctx_,
                        {n, tokens.data(), nullptr, positions.data(), n_seq.data(), seq_ids.data(), nullptr});
}

void Decoder::compute(Tap & tap, StateWork & states, std::vector<int32_t> output_index, const char * name,
                      const std::function<int32_t()> & work) {
    const std::string n = std::to_string(output_index.size());
    log_take();
    armed_ = &tap;
    tap.arm(states.reads, states.writes, std::move(output_index));
    const int32_t status = work();
    if (status == 0) {
        llama_synchronize(ctx_);
    }
    armed_ = nullptr;
    if (status != 0) {
        try {
            tap.disarm();
        } catch (const Error &) {
            // the decode's own failure is the one to report
        }
        if (aborted_ || status == 2) {
            throw Error("closed", std::string("The context was closed during the ") + name + ".");
        }
        if (status == 1) {
            throw Error("context_full", "The context of " + std::to_string(options_.n_ctx) +
                                            " cells has no room for " + n +
                                            " more tokens; use a larger -c or fewer rows.");
        }
        throw Error("engine", with_log(std::string("The ") + name + " of " + n +
                                       " tokens failed with status " + std::to_string(status)));
    }
    tap.disarm();

    parallel_for((int)states.reads.size(), options_.n_threads, [&](int i) {
        SiteRead & read = states.reads[i];
        for (size_t row = 0; row < read.tokens.size(); ++row) {
            read.finite.push_back(all_finite(read.states + row * n_embd_, n_embd_) ? 1 : 0);
        }
    });
}

LogitResults Decoder::reduce(const std::vector<const float *> & rows, const std::vector<LogitRead> & reads,
                             const ReadOptions & options) const {
    LogitResults results;
    results.readings.resize(rows.size());
    if (options.keep_logits) {
        results.logits.resize(rows.size() * (size_t)n_vocab_);
    }
    parallel_for((int)rows.size(), options_.n_threads, [&](int i) {
        LogitReading & reading = results.readings[i];
        if (options.keep_logits) {
            std::memcpy(results.logits.data() + (size_t)i * n_vocab_, rows[i], sizeof(float) * n_vocab_);
        }
        reading.reduced = reduce_logits(rows[i], n_vocab_, options.top_k);
        if (!reading.reduced.finite) {
            return;
        }
        const auto score = [&](llama_token token) {
            return score_token(rows[i], n_vocab_, reading.reduced.log_total, token);
        };
        const LogitRead & read = reads[i];
        for (const std::vector<llama_token> & tracked : {options.tracked, read.tracked}) {
            std::transform(tracked.begin(), tracked.end(), std::back_inserter(reading.tracked), score);
        }
        if (read.given < 0 && options.sampling.temperature == 0.0f) {
            reading.chosen = reading.reduced.top_ids[0];
            reading.chosen_score = {reading.reduced.top_logprobs[0], 0};
            return;
        }
        reading.chosen =
            read.given >= 0 ? read.given : draw_token(rows[i], n_vocab_, options.sampling, read.seed);
        reading.chosen_score = score(reading.chosen);
    });
    return results;
}

void Decoder::clear() {
    llama_memory_clear(llama_get_memory(ctx_), false);
    key_cells_->clear();
    encoded_.clear();
}

void Decoder::copy_sequence(llama_seq_id from, llama_seq_id to) {
    llama_memory_seq_cp(llama_get_memory(ctx_), from, to, -1, -1);
    key_cells_->copy_sequence(from, to);
}

void Decoder::remove_sequence(llama_seq_id sequence, llama_pos first) {
    if (!llama_memory_seq_rm(llama_get_memory(ctx_), sequence, first, -1)) {
        throw Error("engine",
                    "This model's memory can't be cut back to " + std::to_string(first) + " tokens.");
    }
    key_cells_->remove_sequence(sequence, first);
}

LogitResults Decoder::lens(const float * states, int32_t n, const ReadOptions & options) {
    if (aborted_) {
        throw Error("closed", "The context was closed.");
    }
    check_tokens(options.tracked);
    if (!all_finite(states, (size_t)n * n_embd_)) {
        throw Error("not_finite", "A state given to the lens holds NaN or infinity.");
    }
    const std::vector<float> & logits = tail().logits(states, n);
    std::vector<const float *> rows;
    for (int32_t i = 0; i < n; ++i) {
        rows.push_back(logits.data() + (size_t)i * n_vocab_);
    }
    return reduce(rows, std::vector<LogitRead>(n), options);
}

} // namespace ps
