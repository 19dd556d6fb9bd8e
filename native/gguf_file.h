// The header of a GGUF file, read without llama.cpp, which asserts what it finds there.
#pragma once

#include "ggml-cpp.h"
#include "gguf.h"

#include <cstdint>
#include <optional>
#include <string>

namespace ps {

// A file's header alone. Throws Error("bad_model") where it is no readable GGUF file.
gguf_context_ptr open_gguf(const std::string & path);

// Each of its questions throws Error("bad_model") where the file says something else than it may.
class GgufFile {
public:
    explicit GgufFile(const std::string & path) : path_(path), gguf_(open_gguf(path)) {}

    [[noreturn]] void refuse(const std::string & reason) const;

    const gguf_context * get() const { return gguf_.get(); }

    std::optional<std::string> text(const std::string & key) const;
    std::optional<int64_t> integer(const std::string & key) const;
    // Of one value for all blocks or one for each: the first.
    std::optional<int64_t> first_integer(const std::string & key) const;

    // The data of every tensor must lie within the file: llama.cpp maps it and would read beyond.
    void check_data() const;
    // llama.cpp asserts the type of a later part's number.
    void check_split(size_t part, size_t n_parts) const;

    bool has_tensor(const std::string & name) const { return gguf_find_tensor(get(), name.c_str()) >= 0; }

private:
    std::string path_;
    gguf_context_ptr gguf_;
};

} // namespace ps
