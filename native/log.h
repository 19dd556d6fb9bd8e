// llama.cpp reports the reason of a failure only in its log: the last warnings and errors are kept.
#pragma once

#include <string>

namespace ps {

// Routes the log of llama.cpp and ggml into memory, and to stderr too if `verbose`.
void log_install(bool verbose);

// What was logged by this process since the last call, as one line without a full stop; empty if nothing.
std::string log_take();

// `message`, which has no full stop, as a sentence with what was logged since the last log_take().
std::string with_log(const std::string & message);

} // namespace ps
