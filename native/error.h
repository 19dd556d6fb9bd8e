// One failure type for everything under the addon: a stable code and a sentence for a person.
#pragma once

#include <stdexcept>
#include <string>

namespace ps {

struct Error : std::runtime_error {
    // must be one of the codes that src/errors.ts lists
    const char * code;
    Error(const char * code, const std::string & message) : std::runtime_error(message), code(code) {}
};

} // namespace ps
