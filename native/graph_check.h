// Can this graph be computed? Where it is built, llama.cpp checks shapes; wrong types and some parameters end
// the process (or never end) only on the threads that compute.
#pragma once

#include "ggml.h"

namespace ps {

// Throw Error("bad_model") with the reason.
void check_graph(ggml_cgraph * graph);
void check_node(const ggml_tensor * node);

} // namespace ps
