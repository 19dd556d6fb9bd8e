#include "matrix.h"

#include "parallel.h"
#include "wide.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace ps {

namespace {

// A product is made of tiles, whose sums are as many as the registers of AVX2 hold.
typedef double Lanes __attribute__((vector_size(32)));
constexpr size_t LANES = 4;
constexpr size_t TILE_ROWS = 6;
constexpr size_t TILE_COLUMNS = 2 * LANES;
// Of the depth that is taken at once: what a tile reads of b stays in the first cache.
constexpr size_t DEPTH = 256;
// Columns of a factor that are finished together.
constexpr size_t BLOCK = 128;
// Columns of right-hand sides that a thread takes at once.
constexpr size_t STRIPE = 256;

size_t ceil_div(size_t n, size_t by) { return (n + by - 1) / by; }

// a: (depth, TILE_ROWS), b: (depth, TILE_COLUMNS) -> sums: (TILE_ROWS, TILE_COLUMNS)
PS_WIDE void multiply_tile(size_t depth, const double * a, const double * b, double * sums) {
    Lanes left[TILE_ROWS] = {}, right[TILE_ROWS] = {};
    for (size_t k = 0; k < depth; ++k, a += TILE_ROWS, b += TILE_COLUMNS) {
        Lanes first, second;
        std::memcpy(&first, b, sizeof first);
        std::memcpy(&second, b + LANES, sizeof second);
        for (size_t i = 0; i < TILE_ROWS; ++i) {
            left[i] += a[i] * first;
            right[i] += a[i] * second;
        }
    }
    for (size_t i = 0; i < TILE_ROWS; ++i) {
        std::memcpy(sums + i * TILE_COLUMNS, &left[i], sizeof left[i]);
        std::memcpy(sums + i * TILE_COLUMNS + LANES, &right[i], sizeof right[i]);
    }
}

// Rows of a matrix (count x depth) from `from` on, as panels of `width` rows; what is missing of the last is
// 0.
template <class T>
std::vector<double> pack(View<T> view, size_t count, size_t from, size_t depth, size_t width, int n_threads) {
    const size_t panels = ceil_div(count, width);
    std::vector<double> packed(panels * depth * width, 0.0);
    parallel_for((int)panels, n_threads, [&](int panel) {
        double * to = packed.data() + (size_t)panel * depth * width;
        const size_t rows = std::min(width, count - (size_t)panel * width);
        for (size_t i = 0; i < rows; ++i) {
            const T * row = view.data + ((size_t)panel * width + i) * view.row_step + from * view.column_step;
            for (size_t k = 0; k < depth; ++k) {
                to[k * width + i] = (double)row[k * view.column_step];
            }
        }
    });
    return packed;
}

// y -= factor * x
PS_WIDE void subtract_scaled(double * y, const double * x, double factor, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        y[i] -= factor * x[i];
    }
}

void factorize_block(double * matrix, size_t n, size_t begin, size_t end, double least, bool & positive) {
    for (size_t i = begin; i < end; ++i) {
        double * row = matrix + i * n;
        for (size_t j = begin; j <= i; ++j) {
            double sum = row[j];
            for (size_t k = begin; k < j; ++k) {
                sum -= row[k] * matrix[j * n + k];
            }
            if (j < i) {
                row[j] = sum / matrix[j * n + j];
            } else if (sum > least) {
                row[i] = std::sqrt(sum);
            } else { // NaN too
                positive = false;
                return;
            }
        }
    }
}

void solve_stripe(const double * factor, size_t n, double * b, size_t columns, size_t begin, size_t end,
                  size_t column, bool transposed) {
    const size_t width = std::min(STRIPE, columns - column);
    const size_t count = end - begin;
    for (size_t step = 0; step < count; ++step) {
        const size_t i = transposed ? end - 1 - step : begin + step;
        double * row = b + i * columns + column;
        for (size_t before = 0; before < step; ++before) {
            const size_t j = transposed ? end - 1 - before : begin + before;
            const double weight = transposed ? factor[j * n + i] : factor[i * n + j];
            subtract_scaled(row, b + j * columns + column, weight, width);
        }
        const double pivot = factor[i * n + i];
        for (size_t k = 0; k < width; ++k) {
            row[k] /= pivot;
        }
    }
}

void solve_block(const double * factor, size_t n, double * b, size_t columns, size_t begin, size_t end,
                 bool transposed, int n_threads) {
    parallel_for((int)ceil_div(columns, STRIPE), n_threads, [&](int stripe) {
        solve_stripe(factor, n, b, columns, begin, end, (size_t)stripe * STRIPE, transposed);
    });
}

std::vector<double> affine_sums(const std::vector<float> & weights, const std::vector<float> & bias,
                                const std::vector<float> & x, size_t inputs, size_t outputs, int n_threads) {
    const size_t rows = x.size() / inputs;
    std::vector<double> sums(rows * outputs, 0.0);
    for (size_t i = 0; i < bias.size() * rows; ++i) {
        sums[i] = (double)bias[i % outputs];
    }
    add_product(sums.data(), outputs, rows, outputs, inputs, 1.0, View<float>{x.data(), inputs, 1},
                View<float>{weights.data(), inputs, 1}.transposed(), Part::all, n_threads);
    return sums;
}

} // namespace

template <class T> void add_product(double * sums, size_t step, size_t rows, size_t columns, size_t depth,
                                    double sign, View<T> a, View<T> b, Part part, int n_threads) {
    for (size_t from = 0; from < depth; from += DEPTH) {
        const size_t taken = std::min(DEPTH, depth - from);
        const std::vector<double> left = pack(a, rows, from, taken, TILE_ROWS, n_threads);
        const std::vector<double> right = pack(b.transposed(), columns, from, taken, TILE_COLUMNS, n_threads);
        parallel_for((int)ceil_div(columns, TILE_COLUMNS), n_threads, [&](int panel) {
            const size_t column = (size_t)panel * TILE_COLUMNS;
            const size_t width = std::min(TILE_COLUMNS, columns - column);
            double tile[TILE_ROWS * TILE_COLUMNS];
            for (size_t row = 0; row < rows; row += TILE_ROWS) {
                const size_t height = std::min(TILE_ROWS, rows - row);
                if (part == Part::lower && row + height <= column) {
                    continue;
                }
                multiply_tile(taken, left.data() + row * taken, right.data() + column * taken, tile);
                for (size_t i = 0; i < height; ++i) {
                    for (size_t j = 0; j < width; ++j) {
                        sums[(row + i) * step + column + j] += sign * tile[i * TILE_COLUMNS + j];
                    }
                }
            }
        });
    }
}

template void add_product(double *, size_t, size_t, size_t, size_t, double, View<float>, View<float>, Part,
                          int);
template void add_product(double *, size_t, size_t, size_t, size_t, double, View<double>, View<double>, Part,
                          int);

bool factorize(double * matrix, size_t n, double least, int n_threads) {
    bool positive = true;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        const size_t end = std::min(n, begin + BLOCK);
        factorize_block(matrix, n, begin, end, least, positive);
        if (!positive) {
            return false;
        }
        parallel_for((int)(n - end), n_threads, [&](int i) {
            double * row = matrix + (end + (size_t)i) * n;
            for (size_t j = begin; j < end; ++j) {
                double sum = row[j];
                for (size_t k = begin; k < j; ++k) {
                    sum -= row[k] * matrix[j * n + k];
                }
                row[j] = sum / matrix[j * n + j];
            }
        });
        const View<double> done{matrix + end * n + begin, n, 1};
        add_product(matrix + end * n + end, n, n - end, n - end, end - begin, -1.0, done, done.transposed(),
                    Part::lower, n_threads);
    }
    return true;
}

void solve(const double * factor, size_t n, double * b, size_t columns, int n_threads) {
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        const size_t end = std::min(n, begin + BLOCK);
        solve_block(factor, n, b, columns, begin, end, false, n_threads);
        add_product(b + end * columns, columns, n - end, columns, end - begin, -1.0,
                    View<double>{factor + end * n + begin, n, 1},
                    View<double>{b + begin * columns, columns, 1}, Part::all, n_threads);
    }
    for (size_t block = ceil_div(n, BLOCK); block-- > 0;) {
        const size_t begin = block * BLOCK, end = std::min(n, begin + BLOCK);
        solve_block(factor, n, b, columns, begin, end, true, n_threads);
        add_product(b, columns, begin, columns, end - begin, -1.0, View<double>{factor + begin * n, 1, n},
                    View<double>{b + begin * columns, columns, 1}, Part::all, n_threads);
    }
}

std::vector<float> apply_affine(const std::vector<float> & weights, const std::vector<float> & bias,
                                const std::vector<float> & x, size_t inputs, size_t outputs, int n_threads) {
    const std::vector<double> sums = affine_sums(weights, bias, x, inputs, outputs, n_threads);
    return std::vector<float>(sums.begin(), sums.end());
}

std::vector<float> apply_waves(const std::vector<float> & frequencies, const std::vector<float> & phases,
                               const std::vector<float> & x, size_t inputs, size_t outputs, int n_threads) {
    const std::vector<double> angles = affine_sums(frequencies, phases, x, inputs, outputs, n_threads);
    std::vector<float> waves(angles.size());
    parallel_for((int)(angles.size() / outputs), n_threads, [&](int row) {
        for (size_t i = (size_t)row * outputs; i < ((size_t)row + 1) * outputs; ++i) {
            waves[i] = (float)std::cos(angles[i]);
        }
    });
    return waves;
}

} // namespace ps
