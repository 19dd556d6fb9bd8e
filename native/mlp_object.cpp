#include "mlp_object.h"

#include "addon_data.h"
#include "arrays.h"
#include "mlp.h"
#include "promise.h"

#include <memory>
#include <mutex>
#include <string>

namespace ps {

namespace {

// Shared with the work that is under way when JavaScript lets go of it.
struct Trained {
    Mlp mlp;
    std::mutex mutex;

    Trained(const MlpShape & shape, size_t batch, const std::vector<float> & parameters, int n_threads)
        : mlp(shape, batch, parameters, n_threads) {}
};

class MlpObject : public Napi::ObjectWrap<MlpObject> {
public:
    static void define(Napi::Env env) {
        addon_data(env).mlp_class =
            Napi::Persistent(DefineClass(env, "Mlp",
                                         {
                                             InstanceMethod<&MlpObject::train>("train"),
                                             InstanceMethod<&MlpObject::parameters>("parameters"),
                                         }));
    }

    explicit MlpObject(const Napi::CallbackInfo & info) : Napi::ObjectWrap<MlpObject>(info) {
        const auto size = [&](int i) { return (size_t)info[i].As<Napi::Number>().Int64Value(); };
        const std::string activation = info[3].As<Napi::String>();
        const MlpShape shape{size(0), size(1), size(2),
                             activation == "relu" ? Activation::relu : Activation::silu};
        const std::vector<float> parameters = to_floats(info[5]);
        if (parameters.size() != shape.parameters() || size(4) == 0) {
            throw coded_error(info.Env(), "engine", "Parameters are not as many as the map has.");
        }
        try {
            trained_ = std::make_shared<Trained>(shape, size(4), parameters, (int)size(6));
        } catch (const Error & error) {
            throw coded_error(info.Env(), error.code, error.what());
        }
    }

private:
    Napi::Value train(const Napi::CallbackInfo & info) {
        const double rate = info[2].As<Napi::Number>(), epsilon = info[3].As<Napi::Number>();
        return PromiseWorker<double>::start(
            info.Env(),
            [trained = trained_, x = to_floats(info[0]), y = to_floats(info[1]), rate, epsilon] {
                const std::lock_guard<std::mutex> lock(trained->mutex);
                return trained->mlp.train(x, y, rate, epsilon);
            },
            [](Napi::Env env, double & loss) -> Napi::Value { return Napi::Number::New(env, loss); });
    }

    Napi::Value parameters(const Napi::CallbackInfo & info) {
        return PromiseWorker<std::vector<float>>::start(
            info.Env(),
            [trained = trained_] {
                const std::lock_guard<std::mutex> lock(trained->mutex);
                return trained->mlp.parameters();
            },
            [](Napi::Env env, std::vector<float> & values) -> Napi::Value {
                return to_array<Napi::Float32Array>(env, values);
            });
    }

    std::shared_ptr<Trained> trained_;
};

Napi::Value make_mlp(const Napi::CallbackInfo & info) {
    return addon_data(info.Env())
        .mlp_class.New({info[0], info[1], info[2], info[3], info[4], info[5], info[6]});
}

} // namespace

void define_mlp(Napi::Env env, Napi::Object exports) {
    MlpObject::define(env);
    exports.Set("mlp", Napi::Function::New(env, make_mlp));
}

} // namespace ps
