// What an edit makes of a state; no graph, no model.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace ps {

// h: the state that the edit meets, v: its vector, a: its number.
enum class EditOp {
    replace,          // a v
    add,              // h + a v
    scale,            // a h; there is no vector
    mix,              // a v + (1 - a) h
    norm_matched_add, // h + a |h| v / |v|
};

std::optional<EditOp> edit_op_named(std::string_view name);

inline bool needs_vector(EditOp op) { return op != EditOp::scale; }
inline bool needs_state(EditOp op) { return op != EditOp::replace; }

// state: (n) in and out; it is not read where the op does not need it. vector: (n), not touched where the op
// needs none. A vector of zeros has no direction: norm_matched_add then adds nothing.
void apply_edit(EditOp op, float alpha, const float * vector, float * state, size_t n);

} // namespace ps
