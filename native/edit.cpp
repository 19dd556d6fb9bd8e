#include "edit.h"

#include <cmath>

namespace ps {

std::optional<EditOp> edit_op_named(std::string_view name) {
    if (name == "replace")
        return EditOp::replace;
    if (name == "add")
        return EditOp::add;
    if (name == "scale")
        return EditOp::scale;
    if (name == "mix")
        return EditOp::mix;
    if (name == "norm-matched-add")
        return EditOp::norm_matched_add;
    return std::nullopt;
}

namespace {

double norm(const float * values, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; ++i) {
        sum += (double)values[i] * values[i];
    }
    return std::sqrt(sum);
}

} // namespace

void apply_edit(EditOp op, float alpha, const float * vector, float * state, size_t n) {
    switch (op) {
    case EditOp::replace:
        for (size_t i = 0; i < n; ++i) {
            state[i] = alpha * vector[i];
        }
        return;
    case EditOp::add:
        for (size_t i = 0; i < n; ++i) {
            state[i] += alpha * vector[i];
        }
        return;
    case EditOp::scale:
        for (size_t i = 0; i < n; ++i) {
            state[i] *= alpha;
        }
        return;
    case EditOp::mix:
        for (size_t i = 0; i < n; ++i) {
            state[i] = alpha * vector[i] + (1.0f - alpha) * state[i];
        }
        return;
    case EditOp::norm_matched_add: {
        const double length = norm(vector, n);
        const float scale = length == 0.0 ? 0.0f : (float)(alpha * norm(state, n) / length);
        for (size_t i = 0; i < n; ++i) {
            state[i] += scale * vector[i];
        }
        return;
    }
    }
}

} // namespace ps
