#include "log.h"

#include "llama.h"

#include <cstdio>
#include <mutex>

namespace ps {

namespace {

constexpr size_t KEPT_BYTES = 2000;

std::mutex mutex;
std::string kept;
bool to_stderr = false;
bool keep_continuation = false;

void on_log(ggml_log_level level, const char * text, void *) {
    std::lock_guard<std::mutex> lock(mutex);
    if (to_stderr) {
        std::fputs(text, stderr);
    }
    if (level != GGML_LOG_LEVEL_CONT) {
        keep_continuation = level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN;
    }
    if (!keep_continuation) {
        return;
    }
    kept += text;
    if (kept.size() > KEPT_BYTES) {
        kept.erase(0, kept.size() - KEPT_BYTES);
    }
}

} // namespace

void log_install(bool verbose) {
    {
        std::lock_guard<std::mutex> lock(mutex);
        to_stderr = verbose;
    }
    llama_log_set(on_log, nullptr);
}

std::string log_take() {
    std::lock_guard<std::mutex> lock(mutex);
    std::string text;
    text.swap(kept);
    for (char & c : text) {
        if (c == '\n') {
            c = ' ';
        }
    }
    while (!text.empty() && (text.back() == ' ' || text.back() == '.')) {
        text.pop_back();
    }
    return text;
}

std::string with_log(const std::string & message) {
    const std::string log = log_take();
    return message + (log.empty() ? "" : ": " + log) + ".";
}

} // namespace ps
