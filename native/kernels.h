// Which matrices the CPU library keeps in a layout of its own, in which products with them are fast.
#pragma once

#include "ggml.h"

#include <string>
#include <vector>

namespace ps {

// Bytes that a matrix of this shape takes in the type of this name if the CPU library would repack it at
// load; 0 where it would not, or where the type does not exist or can't hold such rows.
size_t repacked_bytes(const std::string & type_name, const std::vector<int64_t> & shape);

// What the CPU library says it was built for and found, such as AVX2.
std::vector<std::string> cpu_features();

} // namespace ps
