// What a GGUF model says of itself, for JavaScript.
#pragma once

#include <napi.h>

namespace ps {

// header(paths of all parts): a promise of {fileType, metadata: [[key, value]], tensors}.
Napi::Value read_header(const Napi::CallbackInfo & info);

} // namespace ps
