// Arrays of JavaScript <-> vectors, by copy.
#pragma once

#include <napi.h>

#include <algorithm>
#include <string>
#include <vector>

namespace ps {

template <class Array, class T> std::vector<T> to_vector(const Napi::Value & value) {
    const Array array = value.As<Array>();
    return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}

inline std::vector<int32_t> to_ints(const Napi::Value & value) {
    return to_vector<Napi::Int32Array, int32_t>(value);
}

inline std::vector<float> to_floats(const Napi::Value & value) {
    return to_vector<Napi::Float32Array, float>(value);
}

inline std::vector<std::string> to_strings(const Napi::Value & value) {
    std::vector<std::string> strings;
    const auto list = value.As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) {
        strings.push_back(list.Get(i).As<Napi::String>());
    }
    return strings;
}

template <class Array, class T> Array to_array(Napi::Env env, const std::vector<T> & values) {
    Array array = Array::New(env, values.size());
    std::copy(values.begin(), values.end(), array.Data());
    return array;
}

} // namespace ps
