#include "adapter.h"

#include "error.h"
#include "gguf_file.h"
#include "signature.h"

#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>

namespace ps {

namespace {

constexpr const char * A = ".lora_a";
constexpr const char * B = ".lora_b";
constexpr const char * EMBEDDING = "token_embd.weight";

using Shape = std::array<int64_t, GGML_MAX_DIMS>;

std::string to_text(const Shape & shape) {
    int n_dims = GGML_MAX_DIMS;
    while (n_dims > 2 && shape[n_dims - 1] == 1) {
        --n_dims;
    }
    std::string text = std::to_string(shape[0]);
    for (int i = 1; i < n_dims; ++i) {
        text += " x " + std::to_string(shape[i]);
    }
    return text;
}

std::optional<Shape> shape_of(const GgufFile & file, const std::string & name) {
    const int64_t id = gguf_find_tensor(file.get(), name.c_str());
    if (id < 0) {
        return std::nullopt;
    }
    Shape shape;
    std::memcpy(shape.data(), gguf_get_tensor_ne(file.get(), id), sizeof shape);
    return shape;
}

bool ends_with(const std::string & text, const std::string & end) {
    return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

class Model {
public:
    explicit Model(const std::vector<std::string> & paths) {
        for (const std::string & path : paths) {
            parts_.emplace_back(path);
        }
    }

    std::string architecture() const { return parts_.front().text("general.architecture").value_or(""); }

    std::optional<Shape> shape(const std::string & name) const {
        for (const GgufFile & part : parts_) {
            if (const auto found = shape_of(part, name)) {
                return found;
            }
        }
        return std::nullopt;
    }

private:
    std::vector<GgufFile> parts_;
};

void check_kind(const GgufFile & file, const Model & model) {
    if (file.text("general.type").value_or("model") != "adapter") {
        file.refuse("is no adapter (general.type is not adapter): take a LoRA in GGUF form");
    }
    const std::string kind = file.text("adapter.type").value_or("");
    if (kind != "lora") {
        file.refuse("is an adapter of the type '" + kind + "', where a lora is needed");
    }
    const std::string architecture = file.text("general.architecture").value_or("");
    if (architecture != model.architecture()) {
        file.refuse("is a LoRA for the architecture '" + architecture +
                    "', and the model is of the architecture '" + model.architecture() +
                    "': take one for this model");
    }
    if (gguf_find_key(file.get(), "adapter.alora.invocation_tokens") >= 0) {
        file.refuse("is a LoRA that is on only after certain tokens, which can't be done here");
    }
}

float alpha_of(const GgufFile & file) {
    const int64_t id = gguf_find_key(file.get(), "adapter.lora.alpha");
    if (id < 0) {
        return 0;
    }
    const bool is_float = gguf_get_kv_type(file.get(), id) == GGUF_TYPE_FLOAT32;
    const float alpha = is_float ? gguf_get_val_f32(file.get(), id) : NAN;
    if (!std::isfinite(alpha)) {
        file.refuse("has an adapter.lora.alpha that is no number in 32 bits");
    }
    return alpha;
}

// The tensors' names without their ends, each with both of its parts.
std::set<std::string> weights_of(const GgufFile & file) {
    std::set<std::string> weights;
    for (int64_t i = 0; i < gguf_get_n_tensors(file.get()); ++i) {
        const std::string name = gguf_get_tensor_name(file.get(), i);
        if (!ends_with(name, A) && !ends_with(name, B)) {
            file.refuse("changes " + name +
                        ", which is more than llama.cpp takes of a LoRA: it adds to "
                        "matrices alone");
        }
        const std::string weight = name.substr(0, name.size() - std::strlen(A));
        if (weight.find(A) != weight.npos || weight.find(B) != weight.npos) {
            file.refuse("has a tensor of the name " + name);
        }
        const ggml_type type = gguf_get_tensor_type(file.get(), i);
        if (type != GGML_TYPE_F32 && ggml_get_type_traits(type)->to_float == nullptr) {
            file.refuse("has " + name + " in type " + ggml_type_name(type) +
                        ", which llama.cpp can't compute with");
        }
        weights.insert(weight);
    }
    if (weights.empty()) {
        file.refuse("has no tensors");
    }
    for (const std::string & weight : weights) {
        for (const char * end : {A, B}) {
            if (!file.has_tensor(weight + end)) {
                file.refuse("is not whole: it has no " + weight + end);
            }
        }
    }
    return weights;
}

void check_shape(const GgufFile & file, const Model & model, const std::string & weight) {
    const std::optional<Shape> w = model.shape(weight);
    if (!w) {
        file.refuse("is a LoRA for another model: this one has no " + weight);
    }
    const Shape a = *shape_of(file, weight + A);
    const Shape b = *shape_of(file, weight + B);
    const bool is_embedding = weight == EMBEDDING; // rows are chosen of it, so its A lies the other way
    const bool fits = is_embedding ? a[1] == (*w)[1] && b[1] == (*w)[0] && a[0] == b[0]
                                   : a[0] == (*w)[0] && b[1] == (*w)[1] && a[1] == b[0];
    if (!fits || a[2] != (*w)[2] || b[2] != (*w)[2] || a[3] != 1 || b[3] != 1) {
        file.refuse("is a LoRA for another model: its " + weight + " is " + to_text(a) + " by " + to_text(b) +
                    ", which does not fit the model's of " + to_text(*w));
    }
    if (is_embedding && !model.shape("output.weight")) {
        file.refuse(
            "changes the token embeddings, which are the output matrix of this model too: llama.cpp can't "
            "add a LoRA to both");
    }
}

} // namespace

Adapter read_adapter(const std::string & path, const std::vector<std::string> & model_paths) {
    const GgufFile file(path);
    const Model model(model_paths);
    check_kind(file, model);
    file.check_data();
    Adapter adapter;
    adapter.alpha = alpha_of(file);
    for (const std::string & weight : weights_of(file)) {
        check_shape(file, model, weight);
        adapter.weights.push_back(weight);
    }
    return adapter;
}

AdapterUse::AdapterUse(const Adapter & adapter) {
    for (const std::string & weight : adapter.weights) {
        counts_[weight];
    }
}

void AdapterUse::add(ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        for (const ggml_tensor * source : ggml_graph_node(graph, i)->src) {
            if (source == nullptr || source->op != GGML_OP_NONE) {
                continue;
            }
            std::string name(own_name(source));
            int Count::*which = &Count::plain;
            if (ends_with(name, A) || ends_with(name, B)) {
                which = ends_with(name, A) ? &Count::a : &Count::b;
                name.resize(name.size() - std::strlen(A));
            }
            if (const auto it = counts_.find(name); it != counts_.end()) {
                ++(it->second.*which);
            }
        }
    }
}

void AdapterUse::check() const {
    for (const auto & [weight, count] : counts_) {
        if (count.plain == 0 || count.a != count.plain || count.b != count.plain) {
            throw Error("bad_model", "The LoRA changes " + weight +
                                         ", and llama.cpp does not add one to that matrix wherever this "
                                         "architecture uses it.");
        }
    }
}

} // namespace ps
