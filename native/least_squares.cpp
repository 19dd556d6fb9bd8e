#include "least_squares.h"

#include "eigen.h"
#include "error.h"
#include "matrix.h"
#include "reduce.h"

#include <algorithm>
#include <cmath>

namespace ps {

namespace {

// Beyond it the sums, which are right to 16 digits, say nothing of some direction of x.
constexpr double MOST_CONDITION = 1e12;
// Shares that are tried where the one that was asked for leaves the sums singular.
constexpr double FIRST_RAISED_SHARE = 1e-10;
constexpr double LAST_RAISED_SHARE = 1.0;
constexpr int POWER_STEPS = 12;

std::vector<float> minus_origin(const std::vector<float> & rows, const std::vector<float> & origin) {
    std::vector<float> out(rows.size());
    const size_t width = origin.size();
    for (size_t begin = 0; begin < rows.size(); begin += width) {
        for (size_t i = 0; i < width; ++i) {
            out[begin + i] = rows[begin + i] - origin[i];
        }
    }
    return out;
}

void add_rows(std::vector<double> & sums, const std::vector<float> & rows) {
    const size_t width = sums.size();
    for (size_t begin = 0; begin < rows.size(); begin += width) {
        for (size_t i = 0; i < width; ++i) {
            sums[i] += (double)rows[begin + i];
        }
    }
}

double normalize(std::vector<double> & vector) {
    double squares = 0.0;
    for (double value : vector) {
        squares += value * value;
    }
    const double norm = std::sqrt(squares);
    for (double & value : vector) {
        value /= norm;
    }
    return norm;
}

// Signs of no pattern, so that no eigenvector is likely to be missed.
std::vector<double> start_vector(size_t n) {
    std::vector<double> vector(n);
    uint32_t state = 1;
    for (double & value : vector) {
        state = state * 1664525u + 1013904223u;
        value = (double)(state >> 8) / (double)(1 << 24) - 0.5;
    }
    normalize(vector);
    return vector;
}

// An estimate of the largest eigenvalue of a symmetric matrix, of which the lower triangle is there.
double largest_eigenvalue(const std::vector<double> & matrix, size_t n) {
    std::vector<double> vector = start_vector(n);
    double norm = 0.0;
    for (int step = 0; step < POWER_STEPS; ++step) {
        std::vector<double> product(n, 0.0);
        for (size_t i = 0; i < n; ++i) {
            for (size_t j = 0; j < i; ++j) {
                product[i] += matrix[i * n + j] * vector[j];
                product[j] += matrix[i * n + j] * vector[i];
            }
            product[i] += matrix[i * n + i] * vector[i];
        }
        norm = normalize(product);
        vector.swap(product);
    }
    return norm;
}

double smallest_eigenvalue(const std::vector<double> & factor, size_t n, int n_threads) {
    std::vector<double> vector = start_vector(n);
    double norm = 0.0;
    for (int step = 0; step < POWER_STEPS; ++step) {
        solve(factor.data(), n, vector.data(), 1, n_threads);
        norm = normalize(vector);
    }
    return 1.0 / norm;
}

double median(std::vector<double> values) {
    const auto middle = values.begin() + (ptrdiff_t)(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

} // namespace

LeastSquares::LeastSquares(size_t inputs, size_t outputs, bool has_bias)
    : inputs_(inputs), outputs_(outputs), has_bias_(has_bias), x_origin_(inputs, 0.0f),
      y_origin_(outputs, 0.0f), x_sum_(inputs, 0.0), y_sum_(outputs, 0.0), squares_(inputs * inputs, 0.0),
      products_(inputs * outputs, 0.0) {}

void LeastSquares::add(const std::vector<float> & x, const std::vector<float> & y, int n_threads) {
    const size_t rows = x.size() / inputs_;
    if (x.size() != rows * inputs_ || y.size() != rows * outputs_) {
        throw Error("engine", "Rows to fit are not as wide as the map, or not as many of one kind.");
    }
    if (!all_finite(x.data(), x.size()) || !all_finite(y.data(), y.size())) {
        throw Error("not_finite", "A state to fit a mapping to holds NaN or infinity.");
    }
    if (rows == 0) {
        return;
    }
    if (has_bias_ && n_rows_ == 0) {
        x_origin_.assign(x.begin(), x.begin() + (ptrdiff_t)inputs_);
        y_origin_.assign(y.begin(), y.begin() + (ptrdiff_t)outputs_);
    }
    const std::vector<float> from = minus_origin(x, x_origin_), to = minus_origin(y, y_origin_);
    add_rows(x_sum_, from);
    add_rows(y_sum_, to);
    const View<float> of_x{from.data(), inputs_, 1}, of_y{to.data(), outputs_, 1};
    add_product(squares_.data(), inputs_, inputs_, inputs_, rows, 1.0, of_x.transposed(), of_x, Part::lower,
                n_threads);
    add_product(products_.data(), outputs_, inputs_, outputs_, rows, 1.0, of_x.transposed(), of_y, Part::all,
                n_threads);
    n_rows_ += (int64_t)rows;
}

// Sums over rows -> sums over what rows differ by from their mean, where a bias can make up for that.
void LeastSquares::center() {
    if (n_rows_ == 0) {
        throw Error("engine", "There are no rows to fit a map to.");
    }
    if (!has_bias_) {
        return;
    }
    for (size_t i = 0; i < inputs_; ++i) {
        const double mean = x_sum_[i] / (double)n_rows_;
        for (size_t j = 0; j <= i; ++j) {
            squares_[i * inputs_ + j] -= mean * x_sum_[j];
        }
        for (size_t j = 0; j < outputs_; ++j) {
            products_[i * outputs_ + j] -= mean * y_sum_[j];
        }
    }
}

LeastSquares::Solved LeastSquares::solve_sums(double share, int n_threads) {
    const size_t n = inputs_;
    std::vector<double> diagonal(n);
    for (size_t i = 0; i < n; ++i) {
        diagonal[i] = squares_[i * n + i];
    }
    double unit = median(diagonal);
    if (!(unit > 0.0)) {
        unit = std::max(1e-30, *std::max_element(diagonal.begin(), diagonal.end()));
    }

    Solved solved{};
    std::vector<double> factor, scale(n);
    for (double tried = share;; tried = std::max(FIRST_RAISED_SHARE, 10.0 * tried)) {
        solved.share = tried;
        const double ridge = tried * unit;
        for (size_t i = 0; i < n; ++i) {
            const double square = diagonal[i] + ridge;
            scale[i] = square > 0.0 ? 1.0 / std::sqrt(square) : 1.0;
        }
        factor.assign(squares_.begin(), squares_.end());
        for (size_t i = 0; i < n; ++i) {
            factor[i * n + i] += ridge;
            for (size_t j = 0; j <= i; ++j) {
                factor[i * n + j] *= scale[i] * scale[j];
            }
        }
        const double largest = largest_eigenvalue(factor, n);
        if (factorize(factor.data(), n, largest / MOST_CONDITION, n_threads)) {
            solved.condition = largest / smallest_eigenvalue(factor, n, n_threads);
            if (solved.condition < MOST_CONDITION) {
                break;
            }
        }
        if (tried > LAST_RAISED_SHARE) {
            throw Error("engine", "No map could be fitted: the rows do not say enough of one.");
        }
    }
    std::vector<double>().swap(squares_);

    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < outputs_; ++j) {
            products_[i * outputs_ + j] *= scale[i];
        }
    }
    ps::solve(factor.data(), n, products_.data(), outputs_, n_threads);
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < outputs_; ++j) {
            products_[i * outputs_ + j] *= scale[i];
        }
    }
    return solved;
}

AffineMap LeastSquares::solve(double share, int n_threads) {
    center();
    const auto [used, condition] = solve_sums(share, n_threads);
    AffineMap map{std::vector<float>(outputs_ * inputs_), {}, used, condition};
    std::vector<double> bias(outputs_);
    for (size_t j = 0; j < outputs_; ++j) {
        bias[j] = y_mean(j);
    }
    for (size_t i = 0; i < inputs_; ++i) {
        const double mean = x_mean(i);
        for (size_t j = 0; j < outputs_; ++j) {
            const double weight = products_[i * outputs_ + j];
            map.weights[j * inputs_ + i] = (float)weight;
            bias[j] -= weight * mean;
        }
    }
    std::vector<double>().swap(products_);
    if (has_bias_) {
        map.bias.assign(bias.begin(), bias.end());
    }
    return map;
}

LowRankMap LeastSquares::solve_low_rank(double share, size_t rank, size_t targets, int n_threads) {
    center();
    const std::vector<double> products = products_;
    const auto [used, condition] = solve_sums(share, n_threads);
    const size_t width = outputs_ / targets;
    LowRankMap map{std::vector<float>(targets * rank * inputs_),
                   std::vector<float>(outputs_ * rank),
                   {},
                   used,
                   condition};
    std::vector<double> bias(outputs_);
    for (size_t target = 0; target < targets; ++target) {
        const View<double> weights{products_.data() + target * width, outputs_, 1};
        const View<double> of_y{products.data() + target * width, outputs_, 1};
        // what the weights make of x, times its transpose: along its largest eigenvectors the least is lost
        std::vector<double> made(width * width, 0.0);
        add_product(made.data(), width, width, width, inputs_, 1.0, of_y.transposed(), weights, Part::lower,
                    n_threads);
        const std::vector<double> axes = largest_eigenvectors(std::move(made), width, rank, n_threads);
        std::vector<double> down(rank * inputs_, 0.0);
        add_product(down.data(), inputs_, rank, inputs_, width, 1.0, View<double>{axes.data(), width, 1},
                    weights.transposed(), Part::all, n_threads);
        std::copy(down.begin(), down.end(), map.down.begin() + (ptrdiff_t)(target * rank * inputs_));
        for (size_t j = 0; j < width; ++j) {
            bias[target * width + j] = y_mean(target * width + j);
        }
        for (size_t k = 0; k < rank; ++k) {
            double mean = 0.0;
            for (size_t i = 0; i < inputs_; ++i) {
                mean += down[k * inputs_ + i] * x_mean(i);
            }
            for (size_t j = 0; j < width; ++j) {
                const double axis = axes[k * width + j];
                map.up[(target * width + j) * rank + k] = (float)axis;
                bias[target * width + j] -= axis * mean;
            }
        }
    }
    std::vector<double>().swap(products_);
    if (has_bias_) {
        map.bias.assign(bias.begin(), bias.end());
    }
    return map;
}

} // namespace ps
