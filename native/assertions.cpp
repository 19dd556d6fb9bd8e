#include "assertions.h"

#include "error.h"

#include "ggml.h"

#include <atomic>
#include <cstdio>
#include <cstring>

namespace ps {

namespace {

std::atomic<void (*)(const char *)> watcher{nullptr};
thread_local int guards = 0;
thread_local bool failed = false;

// message: "<path>/<file>:<line>: GGML_ASSERT(<condition>) failed"
void on_abort(const char * message) {
    if (const auto look = watcher.load()) {
        look(message);
    }
    if (guards == 0) {
        std::fprintf(stderr, "%s\n", message);
        return; // and the process ends
    }
    failed = true;
    const char * colon = std::strchr(message, ':');
    const char * name = message;
    for (const char * c = message; c != colon && *c != '\0'; ++c) {
        if (*c == '/' || *c == '\\') {
            name = c + 1;
        }
    }
    throw Error("bad_model", "llama.cpp refuses the model (" + std::string(name) + ").");
}

} // namespace

void assertions_install() { ggml_set_abort_callback(on_abort); }

void assertions_watch(void (*look)(const char * message)) { watcher = look; }

AssertionGuard::AssertionGuard() {
    if (guards++ == 0) {
        failed = false;
    }
}

AssertionGuard::~AssertionGuard() { --guards; }

bool AssertionGuard::tripped() const { return failed; }

} // namespace ps
