// One llama_context: decodes batches of tokens while states are read and overwritten, and reduces the
// logits. Knows tokens, sequences, layers and rows; knows no JavaScript and no experiment.
#pragma once

#include "adapter.h"
#include "attention_cuts.h"
#include "contrast.h"
#include "error.h"
#include "reduce.h"
#include "sample.h"
#include "sites.h"
#include "tap.h"

#include "llama.h"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace ps {

struct ModelHandle;

struct DecoderOptions {
    uint32_t n_ctx = 0; // K/V cells, shared by all sequences; with streams those of each sequence
    bool streams = false;
    uint32_t n_batch = 0; // most tokens of one decode; always one micro-batch, so that rows keep their order
    uint32_t n_sequences = 1;
    uint32_t n_outputs = 0; // most tokens of one decode whose logits are computed
    int32_t n_threads = 1;
    bool flash_attention = true;
    ggml_type type_k = GGML_TYPE_F16;
    ggml_type type_v = GGML_TYPE_F16;
    const Adapter * adapter = nullptr; // of the model; at a scale of 0 it is left out
    float adapter_scale = 1;
};

// A read's logits contrasted with those of another token of the batch, or with what the graph's end makes of
// one of some states of the same token: of the one whose distribution is farthest from the read's own.
struct LogitContrast {
    ContrastWeights weights;
    int32_t token = -1;               // the other token, or -1:
    std::vector<SiteKey> states = {}; // sites of the states
};

// One token of the batch whose next-token distribution is read, and which token then follows it: the given
// one, one drawn with the seed, or the most probable one.
struct LogitRead {
    int32_t token;
    llama_token given = -1;
    uint32_t seed = 0;
    std::vector<llama_token> tracked = {}; // of this read alone, beside those of all reads
    std::optional<LogitContrast> contrast = {};
};

// What is read of each distribution.
struct ReadOptions {
    int32_t top_k = 1; // at least 1
    std::vector<llama_token> tracked;
    bool keep_logits = false;
    Sampling sampling;
    int32_t lens_rows = 1; // states whose logits are computed at once for contrasts; fewer are filled up
};

// One prompt for the encoder. The decoder's tokens of each of the sequences attend to it, until the next one.
struct EncodeStep : StateWork {
    std::vector<llama_token> tokens;
    std::vector<llama_seq_id> sequences;
};

struct Step : StateWork {
    std::vector<llama_token> tokens;
    std::vector<llama_pos> positions; // each sequence goes on where it ended
    std::vector<llama_seq_id> sequences;
    std::vector<int8_t> outputs; // 1: compute the logits (and keep the last block's row) of this token
    std::vector<AttentionCut> cuts;
    std::vector<LogitRead> logit_reads;
    ReadOptions read_options;
};

// Only `reduced` is set where that is not finite.
struct LogitReading {
    Reduced reduced;
    std::vector<TokenScore> tracked;
    llama_token chosen = -1;
    TokenScore chosen_score = {};
};

struct LogitResults {
    std::vector<LogitReading> readings;
    std::vector<float> logits; // (reads, n_vocab) if asked for
};

class Lens;
struct ContrastState;

class Decoder {
public:
    Decoder(std::shared_ptr<ModelHandle> model, const DecoderOptions & options);
    ~Decoder();
    Decoder(const Decoder &) = delete;
    Decoder & operator=(const Decoder &) = delete;

    size_t n_embd() const { return (size_t)n_embd_; }
    const SiteTable & sites() const { return *sites_; }
    // Of the blocks that read from left to right.
    const AttentionTable & attention() const { return *attention_; }
    // Null where the model has no encoder.
    const SiteTable * encoder_sites() const { return encoder_sites_.get(); }
    // Bytes of the K/V cache (or recurrent state) of this context.
    size_t memory_bytes() const;

    // Fills the states of step.reads. Throws Error; whatever is thrown, the next step is clean once the
    // sequences it touched are removed.
    LogitResults decode(Step & step);

    // Fills the states of step.reads. Throws Error, after which nothing is encoded: "not_finite" where the
    // decoder would attend to NaN or infinity.
    void encode(EncodeStep & step);

    void clear();
    void copy_sequence(llama_seq_id from, llama_seq_id to);
    // Removes the positions from `first` on.
    void remove_sequence(llama_seq_id sequence, llama_pos first);

    // Final norm and unembedding of states (n, n_embd), by a graph of their own.
    // Throws Error("no_site") with the reason where the model's graph does not allow it.
    LogitResults lens(const float * states, int32_t n, const ReadOptions & options);

    // From any thread: a decode under way ends early and throws Error("closed"), as does each later call.
    void abort() { aborted_ = true; }

private:
    static bool on_node(ggml_tensor * node, bool ask, void * self);
    void see(ggml_tensor * node);
    bool watch_attention(ggml_tensor * node, bool ask);
    void label_encoder(AdapterUse * use);
    int32_t run_encoder(std::vector<llama_token> tokens, std::vector<llama_seq_id> sequences);
    const float * logits_of(int32_t token) const;
    // Runs `work`, which gives llama.cpp's status, and throws unless all that was planned was done.
    void compute(Tap & tap, StateWork & states, std::vector<int32_t> output_index, const char * name,
                 const std::function<int32_t()> & work);
    void check(const Step & step) const;
    void check(const EncodeStep & step) const;
    void check_size(const char * name, size_t n_tokens, uint32_t most) const;
    void check_sequence(llama_seq_id sequence) const;
    void check_streams() const;
    void check_streams(const std::vector<llama_seq_id> & sequences) const;
    void check_states(const StateWork & states, size_t n_tokens, const SiteTable & sites) const;
    void check_cuts(const std::vector<AttentionCut> & cuts, size_t n_tokens) const;
    void check_tokens(const std::vector<llama_token> & tokens) const;
    void check_contrast(const LogitContrast & contrast, const Step & step) const;
    Lens & tail();
    // For each read contrasted with states the logits of the one farthest from its own (rows: as in reduce).
    std::vector<std::vector<float>> farthest(const std::vector<const float *> & rows, const Step & step,
                                             const std::vector<ContrastState> & states);
    // Rows of step.logit_reads, contrasted where that is asked for. `made`: keeps them.
    std::vector<const float *> contrasted(std::vector<const float *> rows, const Step & step,
                                          const std::vector<ContrastState> & states,
                                          std::vector<std::vector<float>> & made);
    // rows: (n_vocab) each, one for each read
    LogitResults reduce(const std::vector<const float *> & rows, const std::vector<LogitRead> & reads,
                        const ReadOptions & options) const;

    std::shared_ptr<ModelHandle> model_;
    DecoderOptions options_;
    std::unique_ptr<SiteTable> sites_;
    std::unique_ptr<SiteTable> encoder_sites_;
    std::unique_ptr<AttentionTable> attention_;
    std::unique_ptr<KeyCells> key_cells_;
    std::unique_ptr<AttentionCuts> cuts_;
    std::unique_ptr<Tap> tap_;
    std::unique_ptr<Tap> encoder_tap_;
    Tap * armed_ = nullptr;                       // during a decode or an encode
    std::vector<ggml_tensor *> * seen_ = nullptr; // nodes in their order, while the encoder is labelled
    std::optional<Error> refusal_;                // of one of them
    std::set<llama_seq_id> encoded_;              // sequences whose decoder has something to attend to
    std::unique_ptr<Lens> lens_;
    std::atomic<bool> aborted_{false};
    llama_context * ctx_ = nullptr;
    int64_t n_embd_ = 0;
    int32_t n_vocab_ = 0;
};

} // namespace ps
