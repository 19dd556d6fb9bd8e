#include "least_squares_object.h"

#include "addon_data.h"
#include "arrays.h"
#include "least_squares.h"
#include "matrix.h"
#include "promise.h"

#include <memory>
#include <mutex>

namespace ps {

namespace {

// Shared with the work that is under way when JavaScript lets go of it.
struct Fit {
    LeastSquares sums;
    int n_threads;
    std::mutex mutex;
    bool solved = false;

    Fit(size_t inputs, size_t outputs, bool has_bias, int n_threads)
        : sums(inputs, outputs, has_bias), n_threads(n_threads) {}

    // Throws Error("engine") where there is nothing left to work on.
    std::unique_lock<std::mutex> take() {
        std::unique_lock<std::mutex> lock(mutex);
        if (solved) {
            throw Error("engine", "These least squares are solved already.");
        }
        return lock;
    }
};

Napi::Value to_value(Napi::Env env, AffineMap & map) {
    Napi::Object out = Napi::Object::New(env);
    out.Set("weights", to_array<Napi::Float32Array>(env, map.weights));
    out.Set("bias", to_array<Napi::Float32Array>(env, map.bias));
    out.Set("ridge", map.share);
    out.Set("condition", map.condition);
    return out;
}

Napi::Value to_low_rank_value(Napi::Env env, LowRankMap & map) {
    Napi::Object out = Napi::Object::New(env);
    out.Set("down", to_array<Napi::Float32Array>(env, map.down));
    out.Set("up", to_array<Napi::Float32Array>(env, map.up));
    out.Set("bias", to_array<Napi::Float32Array>(env, map.bias));
    out.Set("ridge", map.share);
    out.Set("condition", map.condition);
    return out;
}

class LeastSquaresObject : public Napi::ObjectWrap<LeastSquaresObject> {
public:
    static void define(Napi::Env env) {
        addon_data(env).least_squares_class = Napi::Persistent(
            DefineClass(env, "LeastSquares",
                        {
                            InstanceMethod<&LeastSquaresObject::add>("add"),
                            InstanceMethod<&LeastSquaresObject::solve>("solve"),
                            InstanceMethod<&LeastSquaresObject::solve_low_rank>("solveLowRank"),
                        }));
    }

    explicit LeastSquaresObject(const Napi::CallbackInfo & info)
        : Napi::ObjectWrap<LeastSquaresObject>(info) {
        const auto size = [&](int i) { return (size_t)info[i].As<Napi::Number>().Int64Value(); };
        fit_ = std::make_shared<Fit>(size(0), size(1), info[2].As<Napi::Boolean>(), (int)size(3));
    }

private:
    Napi::Value add(const Napi::CallbackInfo & info) {
        return PromiseWorker<Nothing>::start(
            info.Env(),
            [fit = fit_, x = to_floats(info[0]), y = to_floats(info[1])] {
                const auto lock = fit->take();
                fit->sums.add(x, y, fit->n_threads);
                return Nothing{};
            },
            settle_nothing);
    }

    Napi::Value solve(const Napi::CallbackInfo & info) {
        const double ridge = info[0].As<Napi::Number>();
        return PromiseWorker<AffineMap>::start(
            info.Env(),
            [fit = fit_, ridge] {
                const auto lock = fit->take();
                fit->solved = true;
                return fit->sums.solve(ridge, fit->n_threads);
            },
            to_value);
    }

    Napi::Value solve_low_rank(const Napi::CallbackInfo & info) {
        const double ridge = info[0].As<Napi::Number>();
        const size_t rank = (size_t)info[1].As<Napi::Number>().Int64Value();
        const size_t targets = (size_t)info[2].As<Napi::Number>().Int64Value();
        return PromiseWorker<LowRankMap>::start(
            info.Env(),
            [fit = fit_, ridge, rank, targets] {
                const auto lock = fit->take();
                fit->solved = true;
                return fit->sums.solve_low_rank(ridge, rank, targets, fit->n_threads);
            },
            to_low_rank_value);
    }

    std::shared_ptr<Fit> fit_;
};

Napi::Value least_squares(const Napi::CallbackInfo & info) {
    try {
        return addon_data(info.Env()).least_squares_class.New({info[0], info[1], info[2], info[3]});
    } catch (const std::bad_alloc &) {
        throw coded_error(info.Env(), "out_of_memory", "There is not enough memory for the sums of a fit.");
    }
}

template <decltype(apply_affine) * function> Napi::Value apply(const Napi::CallbackInfo & info) {
    const size_t inputs = (size_t)info[3].As<Napi::Number>().Int64Value();
    const int n_threads = info[4].As<Napi::Number>().Int32Value();
    std::vector<float> weights = to_floats(info[0]), bias = to_floats(info[1]), x = to_floats(info[2]);
    const size_t outputs = inputs == 0 ? 0 : weights.size() / inputs;
    if (inputs == 0 || weights.size() != outputs * inputs || x.size() % inputs != 0 ||
        (!bias.empty() && bias.size() != outputs)) {
        throw coded_error(info.Env(), "engine", "A map and the rows it is applied to do not fit each other.");
    }
    return PromiseWorker<std::vector<float>>::start(
        info.Env(), [=] { return function(weights, bias, x, inputs, outputs, n_threads); },
        [](Napi::Env env, std::vector<float> & rows) -> Napi::Value {
            return to_array<Napi::Float32Array>(env, rows);
        });
}

} // namespace

void define_least_squares(Napi::Env env, Napi::Object exports) {
    LeastSquaresObject::define(env);
    exports.Set("leastSquares", Napi::Function::New(env, least_squares));
    exports.Set("applyAffine", Napi::Function::New(env, apply<apply_affine>));
    exports.Set("applyWaves", Napi::Function::New(env, apply<apply_waves>));
}

} // namespace ps
