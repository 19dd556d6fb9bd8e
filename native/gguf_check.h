// Is this file a model that llama.cpp can be given? llama.cpp ends the process on some of those it can't use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ps {

struct GgufSummary {
    std::string architecture;
    int64_t n_layer = 0;
};

// paths: one file, or all parts of a split model in order. Throws Error("bad_model") with the reason.
GgufSummary check_gguf(const std::vector<std::string> & paths);

} // namespace ps
