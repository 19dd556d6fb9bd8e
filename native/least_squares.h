// The linear or affine map that takes rows x nearest to rows y, from a stream of such pairs: what is kept is
// (inputs + outputs) x inputs sums, however many pairs there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ps {

struct AffineMap {
    std::vector<float> weights; // (outputs, inputs)
    std::vector<float> bias;    // (outputs); empty where the map is linear
    // As in `solve`, or more.
    double share = 0.0;
    // Of these sums, with a diagonal of ones, after that: how many times a change of y may grow in the map,
    // squared.
    double condition = 0.0;
};

// Maps of which each is x -> up * (down * x) + bias.
struct LowRankMap {
    std::vector<float> down; // (targets, rank, inputs)
    std::vector<float> up;   // (targets, outputs of one, rank)
    std::vector<float> bias; // (outputs); empty where the maps are linear
    double share = 0.0, condition = 0.0;
};

class LeastSquares {
public:
    LeastSquares(size_t inputs, size_t outputs, bool has_bias);

    // x: (rows, inputs), y: (rows, outputs). Throws Error("not_finite").
    void add(const std::vector<float> & x, const std::vector<float> & y, int n_threads);

    int64_t rows() const { return n_rows_; }

    // The map that makes |y - f(x)|^2 + ridge * |weights|^2 smallest; `share` is the ridge as a part of the
    // median sum of squares of a float of x. Where that leaves more than one map, the ridge is raised to the
    // first that does not. Takes the sums apart: nothing can be added or solved afterwards.
    AffineMap solve(double share, int n_threads);

    // The same under the condition that the weights have that rank (reduced-rank regression): |y - f(x)|^2
    // counts y in its own axes, as it is. The outputs are those of so many targets side by side, each with
    // weights of its own. Whatever `solve` says of ridge and sums holds here too.
    LowRankMap solve_low_rank(double share, size_t rank, size_t targets, int n_threads);

private:
    struct Solved {
        double share, condition;
    };

    void center();
    // Makes weights (inputs, outputs) of the products.
    Solved solve_sums(double share, int n_threads);
    double x_mean(size_t i) const { return x_sum_[i] / (double)n_rows_ + (double)x_origin_[i]; }
    double y_mean(size_t j) const { return y_sum_[j] / (double)n_rows_ + (double)y_origin_[j]; }

    size_t inputs_, outputs_;
    bool has_bias_;
    int64_t n_rows_ = 0;
    // Subtracted from every row, so that what is summed is small: the first row, where there is a bias.
    std::vector<float> x_origin_, y_origin_;
    std::vector<double> x_sum_, y_sum_;
    std::vector<double> squares_;  // (inputs, inputs), lower triangle
    std::vector<double> products_; // (inputs, outputs)
};

} // namespace ps
