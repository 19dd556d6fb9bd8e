// Eigenvectors of symmetric matrices in float64.
#pragma once

#include <cstddef>
#include <vector>

namespace ps {

// The eigenvectors of the `count` largest eigenvalues of a symmetric matrix (n x n, of which the lower
// triangle is read), largest first: (count, n), of unit length and at right angles to each other. The bits do
// not depend on the threads.
std::vector<double> largest_eigenvectors(std::vector<double> matrix, size_t n, size_t count, int n_threads);

} // namespace ps
