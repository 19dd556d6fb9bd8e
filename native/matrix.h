// Dense matrices, row-major, in float64: products, Cholesky's factorization and its solutions. Whatever is
// float32 is widened before it is multiplied.
#pragma once

#include <cstddef>
#include <vector>

namespace ps {

// Element (i, j) of a matrix lies at data[i * row_step + j * column_step].
template <class T> struct View {
    const T * data;
    size_t row_step;
    size_t column_step;

    View transposed() const { return {data, column_step, row_step}; }
};

// Which elements of a product are needed: those of `lower` at or below the diagonal.
enum class Part { all, lower };

// sums (rows x columns, `step` apart) += sign * a (rows x depth) * b (depth x columns). The bits of an
// element do not depend on how many others there are, nor on the threads.
template <class T> void add_product(double * sums, size_t step, size_t rows, size_t columns, size_t depth,
                                    double sign, View<T> a, View<T> b, Part part, int n_threads);

// Replaces the lower triangle of a symmetric matrix (n x n) by its Cholesky factor. False where a pivot is
// not above `least`: the matrix is singular, and what it holds then is of no use.
bool factorize(double * matrix, size_t n, double least, int n_threads);

// Replaces b (n x columns) by the solution of the system that `factor` was made of.
void solve(const double * factor, size_t n, double * b, size_t columns, int n_threads);

// Each row of x (rows x inputs) -> weights (outputs x inputs) times it, plus bias (outputs, or empty).
std::vector<float> apply_affine(const std::vector<float> & weights, const std::vector<float> & bias,
                                const std::vector<float> & x, size_t inputs, size_t outputs, int n_threads);

// The cosines of what `apply_affine` would give, of angles in float64: each is rounded once.
std::vector<float> apply_waves(const std::vector<float> & frequencies, const std::vector<float> & phases,
                               const std::vector<float> & x, size_t inputs, size_t outputs, int n_threads);

} // namespace ps
