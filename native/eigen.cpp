#include "eigen.h"

#include "error.h"
#include "parallel.h"
#include "wide.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace ps {

namespace {

// Below so many rows a thread costs more than it saves.
constexpr size_t LEAST_ROWS_OF_THREAD = 96;
// Columns of the eigenvectors that a thread turns at once.
constexpr size_t STRIPE = 256;
// Two or three are usual; so many were never seen.
constexpr size_t MOST_STEPS_OF_ONE = 60;

struct Tridiagonal {
    std::vector<double> diagonal;
    std::vector<double> beside; // (n - 1)
    // Row k holds, from k + 1 on, the unit vector of the k-th reflection that led here.
    std::vector<double> reflections;
};

// Of two rotated entries (x, y): (c x + s y, -s x + c y).
struct Rotation {
    size_t row;
    double c, s;
};

template <class Work> void for_rows(size_t n, int n_threads, Work work) {
    const int threads = std::min(n_threads, (int)(n / LEAST_ROWS_OF_THREAD) + 1);
    parallel_for((int)n, threads, [&](int i) { work((size_t)i); });
}

PS_WIDE double dot(const double * a, const double * b, size_t n) {
    constexpr size_t LANES = 8;
    double sums[LANES] = {};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t k = 0; k < LANES; ++k) {
            sums[k] += a[i + k] * b[i + k];
        }
    }
    for (; i < n; ++i) {
        sums[0] += a[i] * b[i];
    }
    return std::accumulate(sums, sums + LANES, 0.0);
}

PS_WIDE void subtract_two(double * row, const double * a, double of_a, const double * b, double of_b,
                          size_t n) {
    for (size_t i = 0; i < n; ++i) {
        row[i] -= of_a * a[i] + of_b * b[i];
    }
}

PS_WIDE void rotate(double * x, double * y, double c, double s, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        const double was = x[i];
        x[i] = c * was + s * y[i];
        y[i] = c * y[i] - s * was;
    }
}

void mirror_lower(std::vector<double> & matrix, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < i; ++j) {
            matrix[j * n + i] = matrix[i * n + j];
        }
    }
}

// Householder's reflections, each of which clears a column below its second entry.
Tridiagonal tridiagonal(std::vector<double> & a, size_t n, int n_threads) {
    Tridiagonal out{std::vector<double>(n), std::vector<double>(n - 1), std::vector<double>(n * n, 0.0)};
    std::vector<double> product(n);
    for (size_t k = 0; k + 2 < n; ++k) {
        const size_t rest = k + 1, size = n - rest;
        double * v = out.reflections.data() + k * n + rest;
        std::copy_n(a.data() + k * n + rest, size, v);
        const double length = std::sqrt(dot(v, v, size));
        const double image = v[0] > 0.0 ? -length : length;
        out.beside[k] = image;
        v[0] -= image;
        const double norm = std::sqrt(dot(v, v, size));
        if (norm == 0.0) {
            continue;
        }
        std::for_each(v, v + size, [&](double & value) { value /= norm; });
        double * p = product.data();
        for_rows(size, n_threads,
                 [&](size_t i) { p[i] = 2.0 * dot(a.data() + (rest + i) * n + rest, v, size); });
        const double along = dot(p, v, size);
        for (size_t i = 0; i < size; ++i) {
            p[i] -= along * v[i];
        }
        for_rows(size, n_threads,
                 [&](size_t i) { subtract_two(a.data() + (rest + i) * n + rest, p, v[i], v, p[i], size); });
    }
    for (size_t i = 0; i < n; ++i) {
        out.diagonal[i] = a[i * n + i];
    }
    if (n > 1) {
        out.beside[n - 2] = a[(n - 1) * n + n - 2];
    }
    return out;
}

// One sweep of rotations over entries `low` to `high`, with the shift of the last two.
std::vector<Rotation> sweep(std::vector<double> & d, std::vector<double> & e, size_t low, size_t high) {
    const double half = (d[high - 1] - d[high]) / 2.0, last = e[high - 1];
    const double shift = d[high] - last * last / (half + std::copysign(std::hypot(half, last), half));
    std::vector<Rotation> rotations;
    double x = d[low] - shift, z = e[low];
    for (size_t k = low; k < high; ++k) {
        const double r = std::hypot(x, z);
        const double c = r > 0.0 ? x / r : 1.0, s = r > 0.0 ? z / r : 0.0;
        if (k > low) {
            e[k - 1] = r;
        }
        const double a = d[k], b = e[k], g = d[k + 1];
        d[k] = c * c * a + 2.0 * c * s * b + s * s * g;
        d[k + 1] = s * s * a - 2.0 * c * s * b + c * c * g;
        e[k] = (c * c - s * s) * b + c * s * (g - a);
        if (k + 1 < high) {
            x = e[k];
            z = s * e[k + 1];
            e[k + 1] *= c;
        }
        rotations.push_back({k, c, s});
    }
    return rotations;
}

// Makes e zero and d the eigenvalues; row i of `vectors` becomes the eigenvector of d[i].
void diagonalize(std::vector<double> & d, std::vector<double> & e, std::vector<double> & vectors,
                 int n_threads) {
    const size_t n = d.size();
    const auto is_small = [&](size_t i) {
        return std::abs(e[i]) <=
               std::numeric_limits<double>::epsilon() * (std::abs(d[i]) + std::abs(d[i + 1]));
    };
    size_t steps = 0;
    for (size_t high = n - 1; high > 0;) {
        if (is_small(high - 1)) {
            --high;
            steps = 0;
            continue;
        }
        if (++steps > MOST_STEPS_OF_ONE) {
            throw Error("engine", "The eigenvectors of a fit's sums were not found.");
        }
        size_t low = high - 1;
        while (low > 0 && !is_small(low - 1)) {
            --low;
        }
        const std::vector<Rotation> rotations = sweep(d, e, low, high);
        const size_t stripes = (n + STRIPE - 1) / STRIPE;
        parallel_for((int)stripes, n_threads, [&](int stripe) {
            const size_t column = (size_t)stripe * STRIPE, width = std::min(STRIPE, n - column);
            for (const auto & [row, c, s] : rotations) {
                double * first = vectors.data() + row * n + column;
                rotate(first, first + n, c, s, width);
            }
        });
    }
}

} // namespace

std::vector<double> largest_eigenvectors(std::vector<double> matrix, size_t n, size_t count, int n_threads) {
    mirror_lower(matrix, n);
    Tridiagonal reduced = tridiagonal(matrix, n, n_threads);
    std::vector<double> & vectors = matrix;
    std::fill(vectors.begin(), vectors.end(), 0.0);
    for (size_t i = 0; i < n; ++i) {
        vectors[i * n + i] = 1.0;
    }
    diagonalize(reduced.diagonal, reduced.beside, vectors, n_threads);
    std::vector<size_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return reduced.diagonal[a] > reduced.diagonal[b]; });
    std::vector<double> largest(count * n);
    for_rows(count, n_threads, [&](size_t i) {
        double * vector = largest.data() + i * n;
        std::copy_n(vectors.data() + order[i] * n, n, vector);
        for (size_t k = n < 2 ? 0 : n - 2; k-- > 0;) {
            const double * reflection = reduced.reflections.data() + k * n + k + 1;
            const double along = 2.0 * dot(vector + k + 1, reflection, n - k - 1);
            subtract_two(vector + k + 1, reflection, along, reflection, 0.0, n - k - 1);
        }
    });
    return largest;
}

} // namespace ps
