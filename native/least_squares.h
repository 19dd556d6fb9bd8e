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

private:
    void center();

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
