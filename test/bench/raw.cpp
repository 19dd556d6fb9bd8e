// A bare llama.cpp loop without a callback: what the bench compares the addon with. Reads one job a line
// from standard input and prints the seconds it took.
//   rows PREFIX ROWS BATCH TOKENS [REST]   a shared prefix, then ROWS rows of REST tokens (1), BATCH at a time,
//                                          of which each reads TOKENS tokens: the five most probable ones are
//                                          picked, the first goes on
//   prefill PROMPTS TOKENS   prompts in batches of at most 512 tokens, logits of every token
#include "llama.h"

#include "ggml-backend.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int TOP = 5;

struct Batch {
    std::vector<llama_token> tokens;
    std::vector<llama_pos> positions;
    std::vector<llama_seq_id> sequences;
    std::vector<int8_t> outputs;

    void add(llama_token token, llama_pos position, llama_seq_id sequence, bool output) {
        tokens.push_back(token);
        positions.push_back(position);
        sequences.push_back(sequence);
        outputs.push_back(output ? 1 : 0);
    }

    void decode(llama_context * ctx) {
        std::vector<int32_t> counts(tokens.size(), 1);
        std::vector<llama_seq_id *> ids;
        for (llama_seq_id & sequence : sequences) {
            ids.push_back(&sequence);
        }
        const llama_batch batch = {(int32_t) tokens.size(), tokens.data(), nullptr, positions.data(),
                                   counts.data(),           ids.data(),    outputs.data()};
        if (llama_decode(ctx, batch) != 0) {
            std::fprintf(stderr, "decode failed\n");
            std::exit(1);
        }
        llama_synchronize(ctx);
    }
};

llama_token some_token(int i) { return 1000 + (i * 7919) % 20000; }

// The most probable tokens of a row, the first of all in front.
std::vector<llama_token> top_tokens(const float * logits, int n_vocab) {
    std::vector<llama_token> top(TOP, 0);
    int n = 0;
    for (llama_token id = 0; id < n_vocab; ++id) {
        if (n == TOP && !(logits[id] > logits[top[TOP - 1]])) {
            continue;
        }
        int at = n < TOP ? n++ : TOP - 1;
        for (; at > 0 && logits[id] > logits[top[at - 1]]; --at) {
            top[at] = top[at - 1];
        }
        top[at] = id;
    }
    return top;
}

// The rows of a batch are picked from in threads.
std::vector<llama_token> pick(llama_context * ctx, int n, int n_threads) {
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
    std::vector<llama_token> picked(n);
    const float * logits = llama_get_logits(ctx);
    std::vector<std::thread> threads;
    for (int t = 0; t < n_threads; ++t) {
        threads.emplace_back([&, t] {
            for (int k = t; k < n; k += n_threads) {
                picked[k] = top_tokens(logits + (size_t) k * n_vocab, n_vocab).front();
            }
        });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    return picked;
}

void rows(llama_context * ctx, int n_threads, int prefix, int n, int per_batch, int n_tokens, int rest) {
    llama_memory_t memory = llama_get_memory(ctx);
    llama_memory_clear(memory, false);
    Batch first;
    for (int i = 0; i < prefix; ++i) {
        first.add(some_token(i), i, 0, false);
    }
    first.decode(ctx);
    for (int done = 0; done < n; done += per_batch) {
        std::vector<llama_token> next;
        for (int k = 0; k < std::min(per_batch, n - done); ++k) {
            if (k > 0) {
                llama_memory_seq_cp(memory, 0, k, -1, -1);
            }
            next.push_back(some_token(done + k));
        }
        for (int step = 0; step < n_tokens; ++step) {
            Batch batch;
            for (size_t k = 0; k < next.size(); ++k) {
                for (int i = step == 0 ? 1 : rest; i < rest; ++i) {
                    batch.add(some_token(i), prefix + i - 1, (llama_seq_id) k, false);
                }
                batch.add(next[k], prefix + rest - 1 + step, (llama_seq_id) k, true);
            }
            batch.decode(ctx);
            next = pick(ctx, (int) next.size(), n_threads);
        }
        for (size_t k = 0; k < next.size(); ++k) {
            llama_memory_seq_rm(memory, (llama_seq_id) k, k == 0 ? prefix : 0, -1);
        }
    }
}

void prefill(llama_context * ctx, int prompts, int n_tokens) {
    llama_memory_t memory = llama_get_memory(ctx);
    for (int done = 0; done < prompts;) {
        llama_memory_clear(memory, false);
        Batch batch;
        for (int k = 0; done < prompts && (k + 1) * n_tokens <= 512; ++k, ++done) {
            for (int i = 0; i < n_tokens; ++i) {
                batch.add(some_token(done * n_tokens + i), i, k, true);
            }
        }
        batch.decode(ctx);
    }
}

} // namespace

int main(int argc, char ** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: raw LIBRARIES MODEL THREADS\n");
        return 2;
    }
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    ggml_backend_load_all_from_path(argv[1]);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    llama_model * model = llama_model_load_from_file(argv[2], model_params);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 4096;
    params.n_batch = params.n_ubatch = 512;
    params.n_seq_max = 256;
    params.n_outputs_max = 512;
    params.n_threads = params.n_threads_batch = std::atoi(argv[3]);
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.kv_unified = true;
    params.swa_full = true;
    llama_context * ctx = llama_init_from_model(model, params);

    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string job;
        int a = 0, b = 0, c = 0, d = 0, rest = 1;
        words >> job >> a >> b >> c >> d;
        if (!(words >> rest)) {
            rest = 1;
        }
        const auto begin = std::chrono::steady_clock::now();
        if (job == "rows") {
            rows(ctx, params.n_threads, a, b, c, d, rest);
        } else {
            prefill(ctx, a, b);
        }
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        std::cout << seconds.count() << std::endl;
    }
    llama_free(ctx);
    llama_model_free(model);
}
