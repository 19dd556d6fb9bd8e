#include "gguf_file.h"

#include "error.h"
#include "log.h"

#include <filesystem>

namespace ps {

gguf_context_ptr open_gguf(const std::string & path) {
    log_take();
    gguf_context_ptr gguf{gguf_init_from_file(path.c_str(), {true, nullptr})};
    if (gguf == nullptr) {
        const std::string log = log_take();
        throw Error("bad_model", "The file " + path + " is not a readable GGUF file" +
                                     (log.empty() ? "" : " (" + log + ")") + ".");
    }
    return gguf;
}

void GgufFile::refuse(const std::string & reason) const {
    throw Error("bad_model", "The file " + path_ + " " + reason + ".");
}

std::optional<std::string> GgufFile::text(const std::string & key) const {
    const int64_t id = gguf_find_key(get(), key.c_str());
    if (id < 0) {
        return std::nullopt;
    }
    if (gguf_get_kv_type(get(), id) != GGUF_TYPE_STRING) {
        refuse("has a key " + key + " that is not a text");
    }
    return gguf_get_val_str(get(), id);
}

std::optional<int64_t> GgufFile::integer(const std::string & key) const {
    const int64_t id = gguf_find_key(get(), key.c_str());
    if (id < 0) {
        return std::nullopt;
    }
    switch (gguf_get_kv_type(get(), id)) {
    case GGUF_TYPE_UINT8: return gguf_get_val_u8(get(), id);
    case GGUF_TYPE_INT8: return gguf_get_val_i8(get(), id);
    case GGUF_TYPE_UINT16: return gguf_get_val_u16(get(), id);
    case GGUF_TYPE_INT16: return gguf_get_val_i16(get(), id);
    case GGUF_TYPE_UINT32: return gguf_get_val_u32(get(), id);
    case GGUF_TYPE_INT32: return gguf_get_val_i32(get(), id);
    case GGUF_TYPE_UINT64: return (int64_t)gguf_get_val_u64(get(), id);
    case GGUF_TYPE_INT64: return gguf_get_val_i64(get(), id);
    case GGUF_TYPE_BOOL: return gguf_get_val_bool(get(), id) ? 1 : 0;
    case GGUF_TYPE_ARRAY: return std::nullopt; // one value for each block: llama.cpp's to judge
    default: refuse("has a key " + key + " that is not a whole number");
    }
}

std::optional<int64_t> GgufFile::first_integer(const std::string & key) const {
    const int64_t id = gguf_find_key(get(), key.c_str());
    if (id < 0 || gguf_get_kv_type(get(), id) != GGUF_TYPE_ARRAY) {
        return integer(key);
    }
    const gguf_type type = gguf_get_arr_type(get(), id);
    if ((type != GGUF_TYPE_UINT32 && type != GGUF_TYPE_INT32) || gguf_get_arr_n(get(), id) == 0) {
        return std::nullopt;
    }
    return static_cast<const int32_t *>(gguf_get_arr_data(get(), id))[0];
}

void GgufFile::check_data() const {
    const uint64_t size = std::filesystem::file_size(path_);
    for (int64_t i = 0; i < gguf_get_n_tensors(get()); ++i) {
        if (gguf_get_tensor_size(get(), i) == 0) {
            refuse("has a tensor without numbers (" + std::string(gguf_get_tensor_name(get(), i)) + ")");
        }
        const uint64_t end =
            gguf_get_data_offset(get()) + gguf_get_tensor_offset(get(), i) + gguf_get_tensor_size(get(), i);
        if (end > size) {
            refuse("is cut off: tensor " + std::string(gguf_get_tensor_name(get(), i)) + " ends at byte " +
                   std::to_string(end) + " of " + std::to_string(size) + "; download it again");
        }
    }
}

void GgufFile::check_split(size_t part, size_t n_parts) const {
    for (const auto & [key, expected] :
         {std::pair<const char *, size_t>{"split.no", part}, {"split.count", n_parts}}) {
        const int64_t id = gguf_find_key(get(), key);
        if (id < 0 && n_parts == 1) {
            continue;
        }
        if (id < 0 || gguf_get_kv_type(get(), id) != GGUF_TYPE_UINT16 ||
            gguf_get_val_u16(get(), id) != expected) {
            refuse("is not part " + std::to_string(part + 1) + " of " + std::to_string(n_parts) +
                   " of a split model; give the first part, with the others beside it");
        }
    }
}

} // namespace ps
