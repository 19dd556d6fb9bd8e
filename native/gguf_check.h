// Is this file a model that llama.cpp can be given? llama.cpp ends the process on some of those it can't use.
#pragma once

#include <string>
#include <vector>

namespace ps {

// paths: one file, or all parts of a split model in order. Throws Error("bad_model") with the reason.
void check_gguf(const std::vector<std::string> & paths);

} // namespace ps
