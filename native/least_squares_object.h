// Least squares as JavaScript sees them.
#pragma once

#include <napi.h>

namespace ps {

// leastSquares(inputs, outputs, has a bias, threads) -> object with add(x, y) -> Promise and solve(ridge) or
// solveLowRank(ridge, rank, targets) -> Promise of the map, the last thing that is asked of it.
// applyAffine(weights, bias, x, inputs, threads) -> Promise of the rows that x becomes;
// applyWaves(frequencies, phases, x, inputs, threads) -> of their cosines.
void define_least_squares(Napi::Env env, Napi::Object exports);

} // namespace ps
