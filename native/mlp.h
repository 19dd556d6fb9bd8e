// A map with one hidden layer, trained by ggml's own optimizer on the CPU.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace ps {

enum class Activation { relu, silu };

struct MlpShape {
    size_t inputs, hidden, outputs;
    Activation activation;

    size_t parameters() const { return hidden * (inputs + 1) + outputs * (hidden + 1); }
};

// Parameters, in this order: weights (hidden, inputs) and bias (hidden) of the first layer, weights (outputs,
// hidden) and bias (outputs) of the second.
class Mlp {
public:
    // `batch`: rows of one step.
    Mlp(const MlpShape & shape, size_t batch, const std::vector<float> & parameters, int n_threads);
    ~Mlp();
    Mlp(const Mlp &) = delete;
    Mlp & operator=(const Mlp &) = delete;

    // x: (rows, inputs), y: (rows, outputs), of as many rows as whole batches have. Takes a step of Adam
    // against the mean square of the differences for each batch, and gives the mean of these before the
    // steps.
    double train(const std::vector<float> & x, const std::vector<float> & y, double rate, double epsilon);

    std::vector<float> parameters() const;

private:
    struct Graph;

    MlpShape shape_;
    size_t batch_;
    std::unique_ptr<Graph> graph_;
};

} // namespace ps
