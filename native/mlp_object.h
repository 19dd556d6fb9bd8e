// A map with one hidden layer as JavaScript sees it.
#pragma once

#include <napi.h>

namespace ps {

// mlp(inputs, hidden, outputs, 'relu' | 'silu', rows of a batch, parameters, threads) -> object with
// train(x, y, rate, epsilon) -> Promise of the loss, and parameters() -> Promise.
void define_mlp(Napi::Env env, Napi::Object exports);

} // namespace ps
