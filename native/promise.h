// Work off the JavaScript thread in three steps: the caller copies its input into `work`, `work` runs on
// a worker thread and touches no JavaScript, `settle` turns its result into a value on the JavaScript thread.
#pragma once

#include "error.h"

#include <napi.h>

#include <functional>
#include <optional>

namespace ps {

inline Napi::Error coded_error(Napi::Env env, const std::string & code, const std::string & message) {
    Napi::Error error = Napi::Error::New(env, message);
    error.Value().Set("code", code);
    return error;
}

template <class Result> class PromiseWorker : public Napi::AsyncWorker {
public:
    using Work = std::function<Result()>;
    using Settle = std::function<Napi::Value(Napi::Env, Result &)>;

    // `done` runs on the JavaScript thread just before the promise settles, whichever way.
    static Napi::Promise start(
        Napi::Env env, Work work, Settle settle, std::function<void()> done = [] {}) {
        auto * worker =
            new PromiseWorker(env, std::move(work), std::move(settle), std::move(done)); // deletes itself
        Napi::Promise promise = worker->deferred_.Promise();
        worker->Queue();
        return promise;
    }

protected:
    void Execute() override {
        try {
            result_.emplace(work_());
        } catch (const Error & error) {
            code_ = error.code;
            SetError(error.what());
        } catch (const std::bad_alloc &) {
            code_ = "out_of_memory";
            SetError("There is not enough memory for this step.");
        } catch (const std::exception & error) {
            code_ = "engine";
            SetError(error.what());
        }
    }

    void OnOK() override {
        done_();
        try {
            deferred_.Resolve(settle_(Env(), *result_));
        } catch (const Napi::Error & error) {
            reject([&] { return error.Value(); });
        }
    }

    void OnError(const Napi::Error & error) override {
        done_();
        reject([&] { return coded_error(Env(), code_, error.Message()).Value(); });
    }

private:
    PromiseWorker(Napi::Env env, Work work, Settle settle, std::function<void()> done)
        : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)),
          settle_(std::move(settle)), done_(std::move(done)) {}

    // Where the environment is being torn down nothing can be settled any more, and nobody waits for it.
    template <class Value> void reject(Value value) {
        try {
            deferred_.Reject(value());
        } catch (const Napi::Error &) {
        }
    }

    Napi::Promise::Deferred deferred_;
    Work work_;
    Settle settle_;
    std::function<void()> done_;
    std::optional<Result> result_;
    std::string code_ = "engine";
};

struct Nothing {};

inline Napi::Value settle_nothing(Napi::Env env, Nothing &) { return env.Undefined(); }

} // namespace ps
