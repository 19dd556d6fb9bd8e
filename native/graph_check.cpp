#include "graph_check.h"

#include "error.h"

#include "ggml-backend.h"

namespace ps {

namespace {

// Null unless the operand is a weight, or a view of one.
const ggml_tensor * weight_of(const ggml_tensor * operand) {
    const ggml_tensor * base = operand->view_src != nullptr ? operand->view_src : operand;
    const bool is_weight = base->op == GGML_OP_NONE && base->buffer != nullptr &&
                           ggml_backend_buffer_get_usage(base->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
    return is_weight ? base : nullptr;
}

// Whether the operation takes weights in this type.
bool takes(ggml_op op, ggml_type type) {
    if (type == GGML_TYPE_F32) {
        return true;
    }
    const bool is_number = ggml_get_type_traits(type)->to_float != nullptr;
    switch (op) {
    case GGML_OP_MUL_MAT:
    case GGML_OP_MUL_MAT_ID:
    case GGML_OP_IM2COL: return is_number;
    case GGML_OP_GET_ROWS: return is_number || type == GGML_TYPE_I32;
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
    case GGML_OP_CONT:
    case GGML_OP_CPY: return true; // what is made of them is looked at in its turn
    default: return false;
    }
}

void check_rotation(const ggml_tensor * node) {
    const int32_t n_dims = node->op_params[1];
    if (n_dims < 1 || n_dims % 2 != 0 || n_dims > node->ne[0]) {
        throw Error("bad_model", "The model rotates " + std::to_string(n_dims) + " of the " +
                                     std::to_string(node->ne[0]) +
                                     " dimensions of a head: it must be a part of them, and even.");
    }
}

} // namespace

void check_graph(ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        for (const ggml_tensor * operand : node->src) {
            const ggml_tensor * weight = operand != nullptr ? weight_of(operand) : nullptr;
            if (weight != nullptr && !takes(node->op, operand->type)) {
                throw Error("bad_model", "The model has " + std::string(weight->name) + " in type " +
                                             ggml_type_name(weight->type) +
                                             ", which llama.cpp can't compute " + ggml_op_desc(node) +
                                             " with.");
            }
        }
        if (node->op == GGML_OP_ROPE) {
            check_rotation(node);
        }
    }
}

} // namespace ps
