// What one JavaScript environment (main thread or worker) holds of this addon.
#pragma once

#include "decoder.h"

#include <napi.h>

#include <memory>
#include <vector>

namespace ps {

struct AddonData {
    Napi::FunctionReference model_class;
    Napi::FunctionReference context_class;
    Napi::FunctionReference least_squares_class;
    Napi::FunctionReference mlp_class;
};

inline AddonData & addon_data(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }

// Decoders that must stop when the environment ends, so that a process exits in the middle of a decode.
class LiveDecoders {
public:
    void add(const std::shared_ptr<Decoder> & decoder) {
        std::vector<std::weak_ptr<Decoder>> live{decoder};
        for (const auto & other : decoders_) {
            if (!other.expired()) {
                live.push_back(other);
            }
        }
        decoders_.swap(live);
    }

    void abort_all() {
        for (const auto & weak : decoders_) {
            if (const auto decoder = weak.lock()) {
                decoder->abort();
            }
        }
    }

private:
    std::vector<std::weak_ptr<Decoder>> decoders_;
};

// The environment's own; touched on its JavaScript thread only.
LiveDecoders & live_decoders();

} // namespace ps
