// The parts of the addon below JavaScript, used in every way they are meant for and in some they refuse, to
// be watched by the sanitizers. driver LIBRARIES GOOD... -- DAMAGED...
#include "assertions.h"
#include "decoder.h"
#include "error.h"
#include "gguf_check.h"
#include "least_squares.h"
#include "log.h"
#include "matrix.h"
#include "mlp.h"
#include "model_handle.h"

#include "ggml-backend.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

using namespace ps;

namespace {

constexpr int N = 5;

[[noreturn]] void fail(const std::string & what) {
    std::fprintf(stderr, "driver: %s\n", what.c_str());
    std::exit(1);
}

void expect(bool holds, const std::string & what) {
    if (!holds) {
        fail(what);
    }
}

void expect_refused(const std::string & what, const std::function<void()> & work) {
    try {
        work();
    } catch (const Error &) {
        return;
    }
    fail(what + " was not refused");
}

// N tokens of one sequence, the logits of each asked for.
Step step_of(llama_seq_id sequence = 0, llama_pos first = 0) {
    Step step;
    for (int i = 0; i < N; ++i) {
        step.tokens.push_back(1 + 7 * i);
        step.positions.push_back(first + i);
        step.sequences.push_back(sequence);
        step.outputs.push_back(1);
    }
    return step;
}

std::vector<int32_t> every_token() { return {0, 1, 2, 3, 4}; }

struct Captured {
    std::vector<std::vector<float>> states; // one list a site
    LogitResults results;
};

// All sites read, some of them written.
Captured decode(Decoder & decoder, Step step, std::vector<SiteWrite> writes) {
    Captured captured;
    const int n_layer = decoder.sites().n_layer();
    captured.states.assign(n_layer + 1, std::vector<float>(N * decoder.n_embd()));
    for (int il = 0; il < n_layer; ++il) {
        step.reads.push_back({{Site::resid_out, il}, every_token(), captured.states[il].data(), {}});
    }
    step.reads.push_back({{Site::embed, 0}, every_token(), captured.states[n_layer].data(), {}});
    step.writes = std::move(writes);
    step.read_options.top_k = 4;
    step.read_options.tracked = {0, 3};
    step.read_options.keep_logits = true;
    step.read_options.sampling = {0.8f, 8, 0.9f};
    for (int32_t token : every_token()) {
        step.logit_reads.push_back({token, token == 0 ? 5 : -1, (uint32_t)token});
    }
    captured.results = decoder.decode(step);
    return captured;
}

// Sequences with cells of their own, where the model can have them.
void use_streams(const std::shared_ptr<ModelHandle> & model) {
    DecoderOptions options;
    options.n_ctx = 256;
    options.streams = true;
    options.n_batch = 2 * N;
    options.n_sequences = 3;
    options.n_outputs = 2 * N;
    if (llama_model_is_recurrent(model->model) || llama_model_is_hybrid(model->model) ||
        llama_model_has_encoder(model->model)) {
        expect_refused("streams without a K/V cache alone", [&] { Decoder decoder(model, options); });
        return;
    }
    Decoder decoder(model, options);
    decode(decoder, step_of(), {});
    decoder.copy_sequence(0, 1);
    decoder.copy_sequence(1, 2);
    decoder.remove_sequence(0, 2);
    const auto both = [](llama_seq_id second) {
        Step step = step_of(1, N);
        const Step other = step_of(second, N);
        step.tokens.insert(step.tokens.end(), other.tokens.begin(), other.tokens.end());
        step.positions.insert(step.positions.end(), other.positions.begin(), other.positions.end());
        step.sequences.insert(step.sequences.end(), other.sequences.begin(), other.sequences.end());
        step.outputs.insert(step.outputs.end(), other.outputs.begin(), other.outputs.end());
        step.logit_reads = {{0, -1, 0, {3, 4}}, {2 * N - 1}};
        return step;
    };
    Step step = both(0);
    expect_refused("streams in the wrong order", [&] { decoder.decode(step); });
    step = both(2);
    const LogitResults results = decoder.decode(step);
    expect(results.readings.size() == 2, "a reading for each row of two streams");
    expect(!results.readings[0].reduced.finite || results.readings[0].tracked.size() == 2, "tracked tokens");
    const LogitResults lens = decoder.lens(std::vector<float>(decoder.n_embd(), 1.0f).data(), 1, {});
    expect(lens.readings.size() == 1, "a lens beside streams");
}

void use(const std::string & path) {
    check_gguf({path});
    const std::shared_ptr<ModelHandle> model = load_model(path, Placement{});
    for (bool special : {true, false}) {
        model->tokenize("the cat is on\n\xF0\x9F\x90\x88 <s>", true, special);
    }
    const int32_t n_vocab = llama_vocab_n_tokens(model->vocab());
    for (llama_token token : {0, n_vocab - 1}) {
        model->token_bytes(token);
    }
    model->metadata("general.name");
    model->metadata("no.such.key");

    DecoderOptions options;
    options.n_ctx = 64;
    options.n_batch = 16;
    options.n_sequences = 3;
    options.n_outputs = 8;
    Decoder decoder(model, options);
    expect(decoder.memory_bytes() > 0, "a context takes memory");
    const int last = decoder.sites().n_layer() - 1;

    decoder.clear();
    const Captured plain = decode(decoder, step_of(), {});
    expect(plain.results.readings.size() == N, "a reading for each token");
    decoder.copy_sequence(0, 1);
    decoder.remove_sequence(1, 0);
    const std::vector<float> vector(decoder.n_embd(), 0.25f);
    const auto write = [&](int layer, int32_t row, std::vector<float> with, EditOp op = EditOp::replace) {
        return SiteWrite{{Site::resid_out, layer}, op, {row}, {1.0f}, std::move(with)};
    };
    for (int layer : {0, last}) {
        decoder.clear();
        const Captured edited =
            decode(decoder, step_of(2),
                   {write(layer, 2, vector), write(layer, 1, vector, EditOp::norm_matched_add),
                    write(layer, 0, {}, EditOp::scale), write(layer, 3, vector, EditOp::mix),
                    write(layer, 4, vector, EditOp::add)});
        expect(std::memcmp(edited.states[layer].data() + 2 * decoder.n_embd(), vector.data(),
                           sizeof(float) * vector.size()) == 0,
               "what was written is read");
    }
    for (int32_t n : {1, 3, 1}) {
        const LogitResults lens = decoder.lens(plain.states[last].data(), n, {3, {1}, true, {}});
        expect(lens.readings.size() == (size_t)n, "a lens reading for each state");
    }

    for (int32_t lens_rows : {1, 3, 7}) {
        decoder.clear();
        Step step = step_of();
        step.read_options.keep_logits = true;
        step.read_options.lens_rows = lens_rows;
        step.logit_reads = {{0}, {1}, {2}, {2}};
        step.logit_reads[1].contrast = LogitContrast{{1.0f, 2.0f, 0.1f}, 0, {}};
        step.logit_reads[2].contrast =
            LogitContrast{{0.0f, 1.0f, 0.0f}, -1, {{Site::embed, 0}, {Site::resid_out, 0}}};
        step.logit_reads[3].contrast = LogitContrast{{0.0f, 1.0f, 1.0f}, -1, {{Site::resid_out, 0}}};
        const LogitResults results = decoder.decode(step);
        expect(results.readings.size() == 4 &&
                   results.readings[3].reduced.finite == plain.results.readings[2].reduced.finite,
               "a reading for each contrast");
        expect(step.reads.empty(), "the contrasts' own reads are gone");
    }

    const auto refused = [&](const std::string & what, const std::function<void(Step &)> & spoil) {
        decoder.clear();
        Step step = step_of();
        spoil(step);
        expect_refused(what, [&] { decoder.decode(step); });
    };
    refused("an empty step", [](Step & step) { step = {}; });
    refused("a list too short", [](Step & step) { step.positions.pop_back(); });
    refused("a token too large", [&](Step & step) { step.tokens[0] = n_vocab; });
    refused("a negative token", [](Step & step) { step.tokens[0] = -1; });
    refused("a sequence too many", [](Step & step) { step.sequences[4] = 3; });
    refused("a position that does not follow", [](Step & step) { step.positions[4] = 9; });
    refused("a layer too many", [&](Step & step) { step.writes.push_back(write(last + 1, 0, vector)); });
    refused("a row too many", [&](Step & step) { step.writes.push_back(write(0, N, vector)); });
    refused("a vector too short", [&](Step & step) { step.writes.push_back(write(0, 0, {1.0f})); });
    refused("a vector with NaN", [&](Step & step) {
        step.writes.push_back(write(0, 0, std::vector<float>(decoder.n_embd(), NAN)));
    });
    refused("a row that is not computed", [&](Step & step) {
        step.outputs[1] = 0;
        step.writes.push_back(write(last, 1, vector));
    });
    refused("logits that were not asked for", [](Step & step) {
        step.outputs[1] = 0;
        step.logit_reads.push_back({1});
    });
    refused("a token to track that is too large",
            [&](Step & step) { step.read_options.tracked = {n_vocab}; });
    refused("a given token that is too large", [&](Step & step) {
        step.logit_reads.push_back({1, n_vocab});
    });
    refused("a token to track in one row that is too large", [&](Step & step) {
        step.logit_reads.push_back({1, -1, 0, {n_vocab}});
    });
    const auto contrasted = [&](const LogitContrast & contrast) {
        return [contrast](Step & step) {
            step.outputs[1] = 0;
            step.logit_reads.push_back({0});
            step.logit_reads.back().contrast = contrast;
        };
    };
    refused("a contrast with a row that is not computed", contrasted({{1, 1, 0}, 1, {}}));
    refused("a contrast with a row too many", contrasted({{1, 1, 0}, N, {}}));
    refused("a contrast with nothing", contrasted({{1, 1, 0}, -1, {}}));
    refused("a contrast with a layer too many", contrasted({{1, 1, 0}, -1, {{Site::resid_out, last + 1}}}));
    refused("a contrast with both", contrasted({{1, 1, 0}, 0, {{Site::resid_out, 0}}}));
    refused("a cutoff above 1", contrasted({{1, 1, 1.5f}, 0, {}}));
    refused("a weight that is none", contrasted({{1, NAN, 0}, 0, {}}));
    refused("no state at once", [](Step & step) { step.read_options.lens_rows = 0; });
    refused("a state that is written twice", [&](Step & step) {
        SiteWrite twice = write(0, 1, vector);
        twice.tokens.push_back(1);
        twice.alphas.push_back(1.0f);
        twice.vectors.insert(twice.vectors.end(), vector.begin(), vector.end());
        step.writes = {twice};
    });
    decoder.clear();
    decode(decoder, step_of(), {}); // after all that
    use_streams(model);
    decoder.abort();
    refused("a step after the end", [](Step &) {});
}

// At widths that do not fill the tiles of a product, nor the blocks of a factor.
void use_matrices() {
    for (const size_t inputs : {1, 7, 130}) {
        const size_t outputs = inputs + 3, rows = 2 * inputs + 5;
        std::vector<float> x(rows * inputs), weights(outputs * inputs), bias(outputs, 1.0f);
        for (size_t i = 0; i < x.size(); ++i) {
            x[i] = (float)std::sin((double)(i * i + 1));
        }
        for (size_t i = 0; i < weights.size(); ++i) {
            weights[i] = (float)std::cos((double)i);
        }
        const std::vector<float> y = apply_affine(weights, bias, x, inputs, outputs, 2);
        LeastSquares sums(inputs, outputs, true);
        sums.add(x, y, 2);
        const AffineMap map = sums.solve(0.0, 2);
        for (size_t i = 0; i < weights.size(); ++i) {
            expect(std::fabs(map.weights[i] - weights[i]) < 1e-3f, "least squares find the map");
        }
        LeastSquares again(inputs, outputs, true);
        again.add(x, y, 2);
        const LowRankMap low = again.solve_low_rank(0.0, inputs, 1, 2);
        for (size_t i = 0; i < weights.size(); ++i) {
            float product = 0.0f;
            for (size_t k = 0; k < inputs; ++k) {
                product += low.up[i / inputs * inputs + k] * low.down[k * inputs + i % inputs];
            }
            expect(std::fabs(product - weights[i]) < 1e-3f, "full rank finds the map");
        }
        const MlpShape shape{inputs, 5, outputs, Activation::silu};
        Mlp mlp(shape, rows, std::vector<float>(shape.parameters(), 0.01f), 2);
        const double before = mlp.train(x, y, 0.01, 1e-8);
        expect(mlp.train(x, y, 0.01, 1e-8) < before, "a step lessens the loss");
        expect(mlp.parameters().size() == shape.parameters(), "as many parameters");
    }
}

} // namespace

int main(int argc, char ** argv) {
    log_install(false);
    assertions_install();
    ggml_backend_load_all_from_path(argv[1]);
    llama_backend_init();
    use_matrices();
    int good = 0, accepted = 0, refused = 0;
    int i = 2;
    for (; i < argc && std::strcmp(argv[i], "--") != 0; ++i, ++good) {
        use(argv[i]);
    }
    for (++i; i < argc; ++i) {
        try {
            use(argv[i]);
            ++accepted;
        } catch (const std::exception &) { // the tokenizer of a damaged vocabulary throws llama.cpp's own
            ++refused;
        }
    }
    llama_backend_free();
    std::printf("%d good models, %d damaged ones that run, %d refused\n", good, accepted, refused);
}
