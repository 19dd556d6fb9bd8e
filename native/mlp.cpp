#include "mlp.h"

#include "error.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-opt.h"

namespace ps {

namespace {

constexpr size_t MOST_TENSORS = 256;
constexpr size_t MOST_NODES = GGML_DEFAULT_GRAPH_SIZE;
// How fast the averages of the gradient and of its square follow.
constexpr float BETA_OF_GRADIENT = 0.9f, BETA_OF_SQUARE = 0.999f;

ggml_context_ptr make_context() {
    // the forward graph and the two that ggml makes of it
    const size_t bytes =
        MOST_TENSORS * ggml_tensor_overhead() + 3 * ggml_graph_overhead_custom(MOST_NODES, true);
    return ggml_context_ptr(ggml_init({bytes, nullptr, true}));
}

struct FreeOptimizer {
    void operator()(ggml_opt_context_t context) const { ggml_opt_free(context); }
};

struct FreeResult {
    void operator()(ggml_opt_result_t result) const { ggml_opt_result_free(result); }
};

} // namespace

// Members are freed from the last to the first.
struct Mlp::Graph {
    ggml_backend_ptr cpu;
    ggml_backend_sched_ptr sched;
    ggml_context_ptr kept = make_context(), computed = make_context();
    ggml_backend_buffer_ptr buffer;
    std::vector<ggml_tensor *> parameters;
    ggml_opt_optimizer_params step{};
    std::unique_ptr<ggml_opt_context, FreeOptimizer> optimizer;
};

Mlp::Mlp(const MlpShape & shape, size_t batch, const std::vector<float> & parameters, int n_threads)
    : shape_(shape), batch_(batch), graph_(std::make_unique<Graph>()) {
    Graph & graph = *graph_;
    graph.cpu.reset(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    if (!graph.cpu) {
        throw Error("no_device", "There is no CPU backend to train a map with.");
    }
    ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(ggml_backend_get_device(graph.cpu.get()));
    if (auto set_n_threads = (ggml_backend_set_n_threads_t)ggml_backend_reg_get_proc_address(
            registry, "ggml_backend_set_n_threads")) {
        set_n_threads(graph.cpu.get(), n_threads);
    }
    ggml_backend_t backend = graph.cpu.get();
    graph.sched.reset(ggml_backend_sched_new(&backend, nullptr, 1, MOST_NODES, false, false));

    ggml_context * kept = graph.kept.get();
    const auto [inputs, hidden, outputs, activation] = shape;
    graph.parameters = {ggml_new_tensor_2d(kept, GGML_TYPE_F32, (int64_t)inputs, (int64_t)hidden),
                        ggml_new_tensor_1d(kept, GGML_TYPE_F32, (int64_t)hidden),
                        ggml_new_tensor_2d(kept, GGML_TYPE_F32, (int64_t)hidden, (int64_t)outputs),
                        ggml_new_tensor_1d(kept, GGML_TYPE_F32, (int64_t)outputs)};
    ggml_tensor * x = ggml_new_tensor_2d(kept, GGML_TYPE_F32, (int64_t)inputs, (int64_t)batch);
    ggml_set_input(x);
    for (ggml_tensor * tensor : graph.parameters) {
        ggml_set_param(tensor);
    }
    graph.buffer.reset(ggml_backend_alloc_ctx_tensors(kept, backend));
    if (!graph.buffer) {
        throw Error("out_of_memory", "There is not enough memory for the parameters of a map.");
    }
    size_t from = 0;
    for (ggml_tensor * tensor : graph.parameters) {
        ggml_backend_tensor_set(tensor, parameters.data() + from, 0, ggml_nbytes(tensor));
        from += (size_t)ggml_nelements(tensor);
    }

    ggml_context * computed = graph.computed.get();
    const auto layer = [&](ggml_tensor * rows, size_t first) {
        return ggml_add(computed, ggml_mul_mat(computed, graph.parameters[first], rows),
                        graph.parameters[first + 1]);
    };
    ggml_tensor * between = layer(x, 0);
    between = activation == Activation::relu ? ggml_relu(computed, between) : ggml_silu(computed, between);
    ggml_tensor * out = layer(between, 2);
    ggml_set_output(out);

    ggml_opt_params params =
        ggml_opt_default_params(graph.sched.get(), GGML_OPT_LOSS_TYPE_MEAN_SQUARED_ERROR);
    params.ctx_compute = computed;
    params.inputs = x;
    params.outputs = out;
    params.optimizer = GGML_OPT_OPTIMIZER_TYPE_ADAMW;
    params.get_opt_pars = ggml_opt_get_constant_optimizer_params;
    params.get_opt_pars_ud = &graph.step;
    graph.optimizer.reset(ggml_opt_init(params));
}

Mlp::~Mlp() = default;

double Mlp::train(const std::vector<float> & x, const std::vector<float> & y, double rate, double epsilon) {
    const size_t rows = x.size() / shape_.inputs;
    if (rows == 0 || rows % batch_ != 0 || x.size() != rows * shape_.inputs ||
        y.size() != rows * shape_.outputs) {
        throw Error("engine", "Rows to train on are not as wide as the map, or no whole batches.");
    }
    ggml_opt_context_t optimizer = graph_->optimizer.get();
    graph_->step.adamw = {(float)rate, BETA_OF_GRADIENT, BETA_OF_SQUARE, (float)epsilon, 0.0f};
    const std::unique_ptr<ggml_opt_result, FreeResult> result(ggml_opt_result_init());
    for (size_t row = 0; row < rows; row += batch_) {
        ggml_opt_alloc(optimizer, true);
        ggml_tensor *inputs = ggml_opt_inputs(optimizer), *labels = ggml_opt_labels(optimizer);
        ggml_backend_tensor_set(inputs, x.data() + row * shape_.inputs, 0, ggml_nbytes(inputs));
        ggml_backend_tensor_set(labels, y.data() + row * shape_.outputs, 0, ggml_nbytes(labels));
        ggml_opt_eval(optimizer, result.get());
    }
    double loss = 0.0;
    ggml_opt_result_loss(result.get(), &loss, nullptr);
    return loss;
}

std::vector<float> Mlp::parameters() const {
    std::vector<float> all(shape_.parameters());
    size_t from = 0;
    for (const ggml_tensor * tensor : graph_->parameters) {
        ggml_backend_tensor_get(tensor, all.data() + from, 0, ggml_nbytes(tensor));
        from += (size_t)ggml_nelements(tensor);
    }
    return all;
}

} // namespace ps
