// Which matrices the CPU library keeps in a layout of its own, in which products with them are fast.
#pragma once

#include "ggml.h"

#include <string>
#include <vector>

namespace ps {

struct MatrixCost {
    size_t bytes = 0; // 0 where the type does not exist or can't hold such rows
    bool is_repacked = false;
};

// What a matrix of this shape is to the CPU library in the type of this name.
MatrixCost matrix_cost(const std::string & type_name, const std::vector<int64_t> & shape);

// What the CPU library says it was built for and found, such as AVX2.
std::vector<std::string> cpu_features();

} // namespace ps
