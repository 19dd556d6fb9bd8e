// llama.cpp and ggml end the process where one of their assertions fails. While a guard is alive, such a
// failure on its thread is thrown as Error("bad_model") instead.
#pragma once

namespace ps {

// Once for the process, before any guard.
void assertions_install();

// `look` sees each failure first, and may end the process in its own way. Once for the process.
void assertions_watch(void (*look)(const char * message));

// For work on one thread that frees what it holds as an exception passes: loading a model, making a
// context. Never around a computation, whose threads can't be unwound.
class AssertionGuard {
public:
    AssertionGuard();
    ~AssertionGuard();
    AssertionGuard(const AssertionGuard &) = delete;
    AssertionGuard & operator=(const AssertionGuard &) = delete;

    // Whether an assertion failed; llama.cpp itself may have caught what was thrown, and logged it.
    bool tripped() const;
};

} // namespace ps
