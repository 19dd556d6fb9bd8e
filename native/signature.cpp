#include "signature.h"

#include <cctype>

namespace ps {

namespace {

// Deep enough for norm, scale, bias and the choice of rows above a matrix product.
constexpr int DEPTH = 6;

bool has_number_after(std::string_view name, std::string_view prefix) {
    for (size_t at = name.find(prefix); at != name.npos; at = name.find(prefix, at + 1)) {
        const size_t digit = at + prefix.size();
        if (digit < name.size() && std::isdigit((unsigned char)name[digit])) {
            return true;
        }
    }
    return false;
}

} // namespace

std::string_view own_name(const ggml_tensor * node) {
    const std::string_view name = node->name;
    if (node->op != GGML_OP_NONE) {
        return name;
    }
    const size_t begin = name.find('#');
    const size_t end = name.rfind('#');
    return begin == end ? name : name.substr(begin + 1, end - begin - 1);
}

bool is_copy(const ggml_tensor * node) {
    return own_name(node).size() != std::string_view(node->name).size();
}

bool may_be_original(const ggml_tensor * t, const ggml_tensor * copy) {
    return t->name == own_name(copy) && t->type == copy->type && ggml_are_same_shape(t, copy);
}

NodeList possible_originals(const ggml_tensor * copy, const ggml_tensor * taker, const NodeList & nodes) {
    NodeList found;
    for (ggml_tensor * node : nodes) {
        if (node == taker) {
            break;
        }
        if (may_be_original(node, copy)) {
            found.push_back(node);
        }
    }
    return found;
}

bool is_numbered(std::string_view name) {
    // " (view)" and the like: of a node that had no name yet
    return name.empty() || name.front() == ' ' || has_number_after(name, "node_") ||
           has_number_after(name, "leaf_");
}

NodeNames::NodeNames(ggml_cgraph * graph) {
    std::unordered_set<std::string_view> seen;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const std::string_view name = ggml_graph_node(graph, i)->name;
        if (!seen.insert(name).second) {
            shared_.emplace(name);
        }
    }
}

bool NodeNames::is_telling(std::string_view name) const {
    return !is_numbered(name) && (shared_.empty() || shared_.count(std::string(name)) == 0);
}

std::string NodeNames::signature(const ggml_tensor * node, const NodeList & before) const {
    struct Writer {
        const NodeNames & names;
        const NodeList & before;
        std::string text;

        const ggml_tensor * source(const ggml_tensor * t, int i) const {
            const ggml_tensor * source = t->src[i];
            if (!is_copy(source) || names.is_telling(own_name(source))) {
                return source;
            }
            const NodeList originals = possible_originals(source, t, before);
            return originals.size() == 1 ? originals.front() : source;
        }

        void write(const ggml_tensor * t, int depth) {
            const std::string_view name = own_name(t);
            if (names.is_telling(name)) {
                text += name;
                return;
            }
            if (!is_numbered(name)) {
                text += name;
                text += '=';
            }
            text += ggml_op_name(t->op);
            text += '(';
            for (int i = 0; i < GGML_MAX_SRC && t->src[i] != nullptr; ++i) {
                if (i > 0) {
                    text += ", ";
                }
                if (depth > 1) {
                    write(source(t, i), depth - 1);
                } else {
                    text += "...";
                }
            }
            text += ')';
        }
    };
    Writer writer{*this, before, {}};
    writer.write(node, DEPTH);
    return std::move(writer.text);
}

} // namespace ps
