#include "lens.h"

#include "error.h"
#include "whole_graph.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "llama-ext.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string_view>

namespace ps {

namespace {

constexpr size_t MAX_NODES = 64;

[[noreturn]] void refuse(const std::string & reason) {
    throw Error("no_site", "The end of the model's graph can't be run on its own: " + reason + ".");
}

bool is_weight(const ggml_tensor * t) {
    return t->op == GGML_OP_NONE && t->buffer != nullptr &&
           ggml_backend_buffer_get_usage(t->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

// Copies the nodes that lead from the last block's output to the logits, into a context of its own.
class TailCopy {
public:
    // n_rows: of the nodes that are copied; their copies have as many as from_copy.
    TailCopy(ggml_context * ctx, ggml_tensor * from, ggml_tensor * from_copy, int64_t n_rows)
        : ctx_(ctx), from_(from), n_rows_(n_rows), n_copied_(from_copy->ne[1]) {
        copies_[from] = from_copy;
    }

    ggml_tensor * copy(ggml_tensor * node) {
        if (const auto it = copies_.find(node); it != copies_.end()) {
            return it->second;
        }
        if (is_weight(node)) {
            return node;
        }
        if (node->op == GGML_OP_GET_ROWS && node->src[0] == from_) {
            return copies_.at(from_); // rows left out after the last block: ours are all wanted
        }
        if (node->op == GGML_OP_NONE || node->view_src != nullptr) {
            refuse(std::string("it depends on ") + node->name);
        }
        if (copies_.size() >= MAX_NODES) {
            refuse("it is too long");
        }
        if (node->ne[1] != n_rows_ || !ggml_is_matrix(node)) {
            refuse(std::string(node->name) + " has not one row for each token");
        }
        ggml_tensor * twin = ggml_new_tensor_2d(ctx_, node->type, node->ne[0], n_copied_);
        for (int i = 0; i < GGML_MAX_SRC; ++i) {
            twin->src[i] = node->src[i] != nullptr ? copy(node->src[i]) : nullptr;
        }
        twin->op = node->op;
        std::memcpy(twin->op_params, node->op_params, sizeof node->op_params);
        copies_[node] = twin;
        return twin;
    }

private:
    ggml_context * ctx_;
    ggml_tensor * from_;
    const int64_t n_rows_;
    const int64_t n_copied_;
    std::map<ggml_tensor *, ggml_tensor *> copies_;
};

ggml_tensor * find_node(ggml_cgraph * graph, std::string_view name) {
    for (int i = ggml_graph_n_nodes(graph) - 1; i >= 0; --i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        if (name == node->name) {
            return node;
        }
    }
    refuse("it has no node named " + std::string(name));
}

} // namespace

struct Lens::Graph {
    int32_t n_rows = 0;
    ggml_context_ptr ctx;
    ggml_cgraph * graph = nullptr;
    ggml_tensor * input = nullptr;
    ggml_tensor * output = nullptr;
    ggml_backend_sched_ptr sched;
};

Lens::Lens(llama_model * model, llama_context * ctx, std::string last_state, uint32_t n_streams,
           int n_threads)
    : ctx_(ctx), last_state_(std::move(last_state)), n_streams_(n_streams) {
    for (int i = 0; i < llama_model_n_devices(model); ++i) {
        if (ggml_backend_t backend = ggml_backend_dev_init(llama_model_get_device(model, i), nullptr)) {
            backends_.push_back(backend);
        }
    }
    ggml_backend_t cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    if (cpu == nullptr) {
        throw Error("no_device", "The CPU backend could not be started.");
    }
    ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(ggml_backend_get_device(cpu));
    if (auto set_n_threads = (ggml_backend_set_n_threads_t)ggml_backend_reg_get_proc_address(
            registry, "ggml_backend_set_n_threads")) {
        set_n_threads(cpu, n_threads);
    }
    backends_.push_back(cpu); // the scheduler wants it last
}

Lens::~Lens() {
    graph_.reset();
    for (ggml_backend_t backend : backends_) {
        ggml_backend_free(backend);
    }
}

const std::vector<float> & Lens::logits(const float * states, int32_t n) {
    if (graph_ == nullptr || graph_->n_rows != n) {
        graph_.reset();
        const uint32_t n_whole = std::max(n_streams_, std::min<uint32_t>(2, llama_n_batch(ctx_)));
        ggml_cgraph * whole = whole_graph(ctx_, n_whole, n_streams_, n_whole);
        ggml_tensor * state = find_node(whole, last_state_);
        ggml_tensor * result = find_node(whole, "result_output");

        auto graph = std::make_unique<Graph>();
        graph->n_rows = n;
        graph->ctx.reset(ggml_init({
            (MAX_NODES + 2) * ggml_tensor_overhead() + ggml_graph_overhead_custom(MAX_NODES, false),
            nullptr,
            true,
        }));
        graph->input = ggml_new_tensor_2d(graph->ctx.get(), GGML_TYPE_F32, state->ne[0], n);
        ggml_set_input(graph->input);
        graph->output = TailCopy(graph->ctx.get(), state, graph->input, n_whole).copy(result);
        ggml_set_output(graph->output);
        graph->graph = ggml_new_graph_custom(graph->ctx.get(), MAX_NODES, false);
        ggml_build_forward_expand(graph->graph, graph->output);
        graph->sched.reset(ggml_backend_sched_new(backends_.data(), nullptr, (int)backends_.size(), MAX_NODES,
                                                  false, false));
        if (!ggml_backend_sched_alloc_graph(graph->sched.get(), graph->graph)) {
            throw Error("out_of_memory",
                        "The lens could not be given memory for " + std::to_string(n) + " rows.");
        }
        graph_ = std::move(graph);
    }
    ggml_backend_tensor_set(graph_->input, states, 0, ggml_nbytes(graph_->input));
    if (ggml_backend_sched_graph_compute(graph_->sched.get(), graph_->graph) != GGML_STATUS_SUCCESS) {
        throw Error("engine", "The lens could not be computed.");
    }
    logits_.resize((size_t)ggml_nelements(graph_->output));
    ggml_backend_tensor_get(graph_->output, logits_.data(), 0, ggml_nbytes(graph_->output));
    return logits_;
}

} // namespace ps
