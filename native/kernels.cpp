#include "kernels.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

namespace ps {

namespace {

ggml_type type_of(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const char * known = ggml_type_name((ggml_type)i);
        if (known != nullptr && name == known && ggml_blck_size((ggml_type)i) > 0) {
            return (ggml_type)i;
        }
    }
    return GGML_TYPE_COUNT;
}

ggml_backend_dev_t cpu_device() { return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); }

template <class Function> Function cpu_function(const char * name) {
    ggml_backend_dev_t cpu = cpu_device();
    return cpu == nullptr
               ? nullptr
               : (Function)ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), name);
}

// The product that a model computes with such a matrix; of three dimensions, one matrix for each expert.
ggml_tensor * product(ggml_context * ctx, ggml_tensor * weight) {
    constexpr int64_t rows = 32;
    if (weight->ne[2] == 1) {
        return ggml_mul_mat(ctx, weight, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, weight->ne[0], rows));
    }
    ggml_tensor * input = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, weight->ne[0], 1, rows);
    return ggml_mul_mat_id(ctx, weight, input, ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 1, rows));
}

} // namespace

MatrixCost matrix_cost(const std::string & type_name, const std::vector<int64_t> & shape) {
    const ggml_type type = type_of(type_name);
    if (type == GGML_TYPE_COUNT || shape.size() < 2 || shape.size() > 3 ||
        shape[0] % ggml_blck_size(type) != 0) {
        return {};
    }
    ggml_context_ptr ctx{ggml_init({8 * ggml_tensor_overhead(), nullptr, true})};
    ggml_tensor * weight = ggml_new_tensor(ctx.get(), type, (int)shape.size(), shape.data());
    ggml_tensor * op = product(ctx.get(), weight);
    MatrixCost cost{ggml_nbytes(weight), false};
    const auto buffer_types =
        cpu_function<ggml_backend_dev_get_extra_bufts_t>("ggml_backend_dev_get_extra_bufts");
    // asked in the way llama.cpp asks when it places a model's weights
    for (auto * each = buffer_types ? buffer_types(cpu_device()) : nullptr; each && *each; ++each) {
        ggml_backend_buffer_ptr empty{ggml_backend_buft_alloc_buffer(*each, 0)};
        weight->buffer = empty.get();
        cost.is_repacked = cost.is_repacked || ggml_backend_dev_supports_op(cpu_device(), op);
    }
    return cost;
}

std::vector<std::string> cpu_features() {
    const auto get = cpu_function<ggml_backend_get_features_t>("ggml_backend_get_features");
    std::vector<std::string> names;
    if (get == nullptr) {
        return names;
    }
    for (const ggml_backend_feature * each = get(ggml_backend_dev_backend_reg(cpu_device())); each->name;
         ++each) {
        names.push_back(each->name);
    }
    return names;
}

} // namespace ps
