#include "gguf_header.h"

#include "arrays.h"
#include "gguf_file.h"
#include "promise.h"

#include "llama.h"

namespace ps {

namespace {

using Parts = std::vector<gguf_context_ptr>;

template <class T> double number_at(const void * data, size_t i) { return (double)((const T *)data)[i]; }

// One number of a key's value or array.
Napi::Value to_number(Napi::Env env, gguf_type type, const void * data, size_t i) {
    switch (type) {
    case GGUF_TYPE_UINT8: return Napi::Number::New(env, number_at<uint8_t>(data, i));
    case GGUF_TYPE_INT8: return Napi::Number::New(env, number_at<int8_t>(data, i));
    case GGUF_TYPE_UINT16: return Napi::Number::New(env, number_at<uint16_t>(data, i));
    case GGUF_TYPE_INT16: return Napi::Number::New(env, number_at<int16_t>(data, i));
    case GGUF_TYPE_UINT32: return Napi::Number::New(env, number_at<uint32_t>(data, i));
    case GGUF_TYPE_INT32: return Napi::Number::New(env, number_at<int32_t>(data, i));
    case GGUF_TYPE_UINT64: return Napi::Number::New(env, number_at<uint64_t>(data, i));
    case GGUF_TYPE_INT64: return Napi::Number::New(env, number_at<int64_t>(data, i));
    case GGUF_TYPE_FLOAT32: return Napi::Number::New(env, number_at<float>(data, i));
    case GGUF_TYPE_FLOAT64: return Napi::Number::New(env, number_at<double>(data, i));
    case GGUF_TYPE_BOOL: return Napi::Boolean::New(env, ((const int8_t *)data)[i] != 0);
    default: return env.Null();
    }
}

Napi::Value to_value(Napi::Env env, const gguf_context * gguf, int64_t id) {
    const gguf_type type = gguf_get_kv_type(gguf, id);
    if (type == GGUF_TYPE_STRING) {
        return Napi::String::New(env, gguf_get_val_str(gguf, id));
    }
    if (type != GGUF_TYPE_ARRAY) {
        return to_number(env, type, gguf_get_val_data(gguf, id), 0);
    }
    const gguf_type element = gguf_get_arr_type(gguf, id);
    const size_t n = gguf_get_arr_n(gguf, id);
    Napi::Array out = Napi::Array::New(env, n);
    for (size_t i = 0; i < n; ++i) {
        out.Set((uint32_t)i, element == GGUF_TYPE_STRING
                                 ? Napi::String::New(env, gguf_get_arr_str(gguf, id, i))
                                 : to_number(env, element, gguf_get_arr_data(gguf, id), i));
    }
    return out;
}

Napi::Object to_tensor(Napi::Env env, const gguf_context * gguf, int64_t id) {
    const int64_t * ne = gguf_get_tensor_ne(gguf, id);
    int n_dims = GGML_MAX_DIMS;
    while (n_dims > 1 && ne[n_dims - 1] == 1) {
        --n_dims;
    }
    Napi::Array shape = Napi::Array::New(env, n_dims);
    for (int i = 0; i < n_dims; ++i) {
        shape.Set((uint32_t)i, (double)ne[i]);
    }
    const ggml_type type = gguf_get_tensor_type(gguf, id);
    Napi::Object out = Napi::Object::New(env);
    out.Set("name", gguf_get_tensor_name(gguf, id));
    out.Set("type", ggml_type_name(type));
    out.Set("isQuantized", ggml_is_quantized(type));
    out.Set("shape", shape);
    out.Set("offset", (double)(gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, id)));
    out.Set("bytes", (double)gguf_get_tensor_size(gguf, id));
    return out;
}

Napi::Value file_type(Napi::Env env, const gguf_context * gguf) {
    const int64_t id = gguf_find_key(gguf, "general.file_type");
    if (id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_UINT32) {
        return env.Null();
    }
    return Napi::String::New(env, llama_ftype_name((llama_ftype)gguf_get_val_u32(gguf, id)));
}

Napi::Value to_header(Napi::Env env, const Parts & parts) {
    const gguf_context * first = parts.front().get();
    Napi::Array metadata = Napi::Array::New(env);
    for (int64_t id = 0; id < gguf_get_n_kv(first); ++id) {
        Napi::Array entry = Napi::Array::New(env, 2);
        entry.Set(0u, gguf_get_key(first, id));
        entry.Set(1u, to_value(env, first, id));
        metadata.Set((uint32_t)id, entry);
    }
    Napi::Array tensors = Napi::Array::New(env);
    for (const gguf_context_ptr & part : parts) {
        for (int64_t id = 0; id < gguf_get_n_tensors(part.get()); ++id) {
            tensors.Set(tensors.Length(), to_tensor(env, part.get(), id));
        }
    }
    Napi::Object out = Napi::Object::New(env);
    out.Set("fileType", file_type(env, first));
    out.Set("metadata", metadata);
    out.Set("tensors", tensors);
    return out;
}

} // namespace

Napi::Value read_header(const Napi::CallbackInfo & info) {
    const std::vector<std::string> paths = to_strings(info[0]);
    return PromiseWorker<Parts>::start(
        info.Env(),
        [paths] {
            Parts parts;
            for (const std::string & path : paths) {
                parts.push_back(open_gguf(path));
            }
            return parts;
        },
        [](Napi::Env env, Parts & parts) { return to_header(env, parts); });
}

} // namespace ps
