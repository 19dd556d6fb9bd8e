#include "graph_check.h"

#include "error.h"

#include "ggml-backend.h"

#include <cstring>

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

[[noreturn]] void refuse(const std::string & reason) {
    throw Error("bad_model", "The model " + reason + ".");
}

void check_weights(const ggml_tensor * node) {
    for (const ggml_tensor * operand : node->src) {
        const ggml_tensor * weight = operand != nullptr ? weight_of(operand) : nullptr;
        if (weight != nullptr && !takes(node->op, operand->type)) {
            refuse("has " + std::string(weight->name) + " in type " + ggml_type_name(weight->type) +
                   ", which llama.cpp can't compute " + ggml_op_desc(node) + " with");
        }
    }
}

void check_rotation(const ggml_tensor * node) {
    const int32_t n_dims = node->op_params[1];
    const int32_t mode = node->op_params[2];
    if (n_dims < 1 || n_dims % 2 != 0 || n_dims > node->ne[0]) {
        refuse("rotates " + std::to_string(n_dims) + " of the " + std::to_string(node->ne[0]) +
               " dimensions of a head, which is not an even part of them");
    }
    if (mode & GGML_ROPE_TYPE_MROPE) {
        const int32_t * sections = node->op_params + 11;
        int64_t sum = 0;
        for (int i = 0; i < GGML_MROPE_SECTIONS; ++i) {
            sum += sections[i];
            if (sections[i] < 0) {
                refuse("rotates a negative number of dimensions in a section of a head");
            }
        }
        if (sum == 0) {
            refuse("rotates in sections of a head, but has no sections (rope.dimension_sections)");
        }
    }
}

void check_epsilon(const ggml_tensor * node) {
    float epsilon;
    std::memcpy(&epsilon, node->op_params + (node->op == GGML_OP_GROUP_NORM ? 1 : 0), sizeof epsilon);
    if (!(epsilon >= 0.0f)) {
        refuse("has an epsilon of " + std::to_string(epsilon) + " in a norm");
    }
}

} // namespace

void check_graph(ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        check_node(ggml_graph_node(graph, i));
    }
}

void check_node(const ggml_tensor * node) {
    check_weights(node);
    switch (node->op) {
    case GGML_OP_ROPE: check_rotation(node); break;
    case GGML_OP_NORM:
    case GGML_OP_RMS_NORM:
    case GGML_OP_L2_NORM:
    case GGML_OP_GROUP_NORM: check_epsilon(node); break;
    default: break;
    }
}

} // namespace ps
