#include "context.h"

#include "addon_data.h"
#include "arrays.h"
#include "promise.h"

#include <algorithm>
#include <optional>

namespace ps {

namespace {

SiteKey to_site_key(const Napi::Object & object) {
    const std::string name = object.Get("site").As<Napi::String>();
    const std::optional<Site> site = site_named(name);
    if (!site.has_value()) {
        throw coded_error(object.Env(), "engine", "There is no site named " + name + ".");
    }
    return {*site, is_of_block(*site) ? object.Get("layer").As<Napi::Number>().Int32Value() : 0};
}

// Calls visit(site, rows, object) for each entry of a list of rows by site.
template <class Visit> void for_site_rows(const Napi::Value & value, Visit visit) {
    const auto list = value.As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) {
        const auto object = list.Get(i).As<Napi::Object>();
        visit(to_site_key(object), to_ints(object.Get("rows")), object);
    }
}

ReadOptions to_read_options(const Napi::Object & readings) {
    const auto number = [&](const char * key) { return readings.Get(key).As<Napi::Number>().FloatValue(); };
    ReadOptions options;
    options.top_k = std::max(1, readings.Get("topK").As<Napi::Number>().Int32Value());
    options.tracked = to_ints(readings.Get("tracked"));
    options.keep_logits = readings.Get("logits").As<Napi::Boolean>();
    options.sampling.temperature = number("temperature");
    options.sampling.top_k = (int32_t)number("sampledTopK");
    options.sampling.top_p = number("sampledTopP");
    if (const Napi::Value rows = readings.Get("lensRows"); !rows.IsUndefined()) {
        options.lens_rows = rows.As<Napi::Number>().Int32Value();
    }
    return options;
}

Napi::Object to_object(Napi::Env env, const LogitResults & results) {
    std::vector<int32_t> top_ids, tracked_ranks, chosen_ids, chosen_ranks;
    std::vector<float> top_logprobs, tracked_logprobs, chosen_logprobs;
    std::vector<uint8_t> finite;
    for (const LogitReading & row : results.readings) {
        finite.push_back(row.reduced.finite ? 1 : 0);
        if (!row.reduced.finite) {
            continue;
        }
        top_ids.insert(top_ids.end(), row.reduced.top_ids.begin(), row.reduced.top_ids.end());
        top_logprobs.insert(top_logprobs.end(), row.reduced.top_logprobs.begin(),
                            row.reduced.top_logprobs.end());
        for (const TokenScore & score : row.tracked) {
            tracked_ranks.push_back(score.rank);
            tracked_logprobs.push_back(score.logprob);
        }
        chosen_ids.push_back(row.chosen);
        chosen_ranks.push_back(row.chosen_score.rank);
        chosen_logprobs.push_back(row.chosen_score.logprob);
    }
    Napi::Object out = Napi::Object::New(env);
    out.Set("finite", to_array<Napi::Uint8Array>(env, finite));
    out.Set("topIds", to_array<Napi::Int32Array>(env, top_ids));
    out.Set("topLogprobs", to_array<Napi::Float32Array>(env, top_logprobs));
    out.Set("trackedRanks", to_array<Napi::Int32Array>(env, tracked_ranks));
    out.Set("trackedLogprobs", to_array<Napi::Float32Array>(env, tracked_logprobs));
    out.Set("chosenIds", to_array<Napi::Int32Array>(env, chosen_ids));
    out.Set("chosenRanks", to_array<Napi::Int32Array>(env, chosen_ranks));
    out.Set("chosenLogprobs", to_array<Napi::Float32Array>(env, chosen_logprobs));
    if (!results.logits.empty()) {
        out.Set("logits", to_array<Napi::Float32Array>(env, results.logits));
    }
    return out;
}

EditOp to_edit_op(Napi::Env env, const std::string & name) {
    const std::optional<EditOp> op = edit_op_named(name);
    if (!op) {
        throw coded_error(env, "engine", "There is no edit '" + name + "'.");
    }
    return *op;
}

// For each site its node in each block, or null; and the first reason why one is missing.
Napi::Object to_object(Napi::Env env, const SiteTable & table) {
    Napi::Object out = Napi::Object::New(env);
    for (Site site : ALL_SITES) {
        Napi::Array nodes = Napi::Array::New(env);
        std::string reason;
        for (int il = 0; il < (is_of_block(site) ? table.n_layer() : 1); ++il) {
            const SiteKey key{site, il};
            nodes.Set((uint32_t)il, table.has(key) ? Napi::Value(Napi::String::New(env, table.name(key)))
                                                   : Napi::Value(env.Null()));
            if (reason.empty()) {
                reason = table.reason(key);
            }
        }
        Napi::Object entry = Napi::Object::New(env);
        entry.Set("nodes", nodes);
        entry.Set("reason",
                  reason.empty() ? Napi::Value(env.Null()) : Napi::Value(Napi::String::New(env, reason)));
        out.Set(site_name(site), entry);
    }
    return out;
}

std::vector<AttentionCut> to_cuts(const Napi::Value & value) {
    std::vector<AttentionCut> cuts;
    if (value.IsUndefined()) {
        return cuts;
    }
    const auto list = value.As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) {
        const auto cut = list.Get(i).As<Napi::Object>();
        cuts.push_back({to_ints(cut.Get("layers")), to_ints(cut.Get("rows")), to_ints(cut.Get("keys"))});
    }
    return cuts;
}

// Contrasts of some of the reads, each told by the index of its read.
void add_contrasts(const Napi::Value & value, std::vector<LogitRead> & reads) {
    if (value.IsUndefined()) {
        return;
    }
    const auto list = value.As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) {
        const auto object = list.Get(i).As<Napi::Object>();
        const auto number = [&](const char * key) { return object.Get(key).As<Napi::Number>(); };
        const uint32_t read = number("read").Uint32Value();
        if (read >= reads.size()) {
            throw coded_error(object.Env(), "engine", "A contrast names a read that is not there.");
        }
        LogitContrast contrast;
        contrast.weights = {number("own").FloatValue(), number("difference").FloatValue(),
                            number("cutoff").FloatValue()};
        contrast.token = number("row").Int32Value();
        const auto states = object.Get("states").As<Napi::Array>();
        for (uint32_t k = 0; k < states.Length(); ++k) {
            contrast.states.push_back(to_site_key(states.Get(k).As<Napi::Object>()));
        }
        reads[read].contrast = std::move(contrast);
    }
}

// Why no edge can be cut, for each block; null where each can.
Napi::Array to_object(Napi::Env env, const AttentionTable & table) {
    Napi::Array reasons = Napi::Array::New(env);
    for (int il = 0; il < table.n_layer(); ++il) {
        const std::string & reason = table.reason(il);
        reasons.Set((uint32_t)il,
                    reason.empty() ? Napi::Value(env.Null()) : Napi::Value(Napi::String::New(env, reason)));
    }
    return reasons;
}

// States are read straight into the arrays that JavaScript gets: the references keep those alive, and are
// touched on the JavaScript thread only.
class StateArrays {
public:
    // Takes in what is captured and edited.
    void fill(const Napi::Object & in, size_t n_embd, StateWork & work) {
        for_site_rows(in.Get("captures"), [&](SiteKey key, std::vector<int32_t> rows, const Napi::Object &) {
            Napi::Float32Array states = Napi::Float32Array::New(in.Env(), rows.size() * n_embd);
            work.reads.push_back({key, std::move(rows), states.Data(), {}});
            arrays_.push_back(Napi::Persistent(states));
        });
        for_site_rows(in.Get("edits"),
                      [&](SiteKey key, std::vector<int32_t> rows, const Napi::Object & edit) {
                          work.writes.push_back({key, to_edit_op(in.Env(), edit.Get("op").As<Napi::String>()),
                                                 std::move(rows), to_floats(edit.Get("alphas")),
                                                 to_floats(edit.Get("vectors"))});
                      });
    }

    Napi::Array captures(Napi::Env env, const StateWork & work) const {
        Napi::Array captures = Napi::Array::New(env, arrays_.size());
        for (size_t i = 0; i < arrays_.size(); ++i) {
            Napi::Object capture = Napi::Object::New(env);
            capture.Set("states", arrays_[i].Value());
            capture.Set("finite", to_array<Napi::Uint8Array>(env, work.reads[i].finite));
            captures.Set((uint32_t)i, capture);
        }
        return captures;
    }

private:
    std::vector<Napi::Reference<Napi::Float32Array>> arrays_;
};

struct Decoding {
    Step step;
    StateArrays states;
    LogitResults results;
};

struct Encoding {
    EncodeStep step;
    StateArrays states;
};

} // namespace

void Context::define(Napi::Env env) {
    addon_data(env).context_class =
        Napi::Persistent(DefineClass(env, "Context",
                                     {
                                         InstanceMethod<&Context::describe>("describe"),
                                         InstanceMethod<&Context::decode>("decode"),
                                         InstanceMethod<&Context::encode>("encode"),
                                         InstanceMethod<&Context::lens>("lens"),
                                         InstanceMethod<&Context::clear>("clear"),
                                         InstanceMethod<&Context::copy_sequence>("copySequence"),
                                         InstanceMethod<&Context::remove_sequence>("removeSequence"),
                                         InstanceMethod<&Context::close>("close"),
                                     }));
}

Napi::Object Context::wrap(Napi::Env env, std::shared_ptr<Decoder> decoder) {
    live_decoders().add(decoder);
    return addon_data(env).context_class.New({Napi::External<std::shared_ptr<Decoder>>::New(env, &decoder)});
}

Context::Context(const Napi::CallbackInfo & info) : Napi::ObjectWrap<Context>(info) {
    if (!info[0].IsExternal()) {
        throw Napi::TypeError::New(info.Env(), "A context is made by a model.");
    }
    decoder_ = *info[0].As<Napi::External<std::shared_ptr<Decoder>>>().Data();
}

std::shared_ptr<Decoder> Context::idle(Napi::Env env) const {
    if (decoder_ == nullptr) {
        throw coded_error(env, "closed", "The context was closed.");
    }
    if (*busy_) {
        throw coded_error(env, "busy", "The context is decoding; wait for the last call to settle.");
    }
    return decoder_;
}

template <class Result> Napi::Promise Context::run(Napi::Env env, std::function<Result(Decoder &)> work,
                                                   std::function<Napi::Value(Napi::Env, Result &)> settle) {
    std::shared_ptr<Decoder> decoder = idle(env);
    *busy_ = true;
    return PromiseWorker<Result>::start(
        env, [decoder, work] { return work(*decoder); }, std::move(settle),
        [busy = busy_] { *busy = false; });
}

Napi::Value Context::describe(const Napi::CallbackInfo & info) {
    const Napi::Env env = info.Env();
    const std::shared_ptr<Decoder> decoder = idle(env);
    Napi::Object out = Napi::Object::New(env);
    out.Set("memoryBytes", (double)decoder->memory_bytes());
    out.Set("sites", to_object(env, decoder->sites()));
    if (const SiteTable * sites = decoder->encoder_sites()) {
        out.Set("encoderSites", to_object(env, *sites));
    }
    out.Set("uncuttable", to_object(env, decoder->attention()));
    out.Set("labelMilliseconds", decoder->sites().milliseconds);
    return out;
}

Napi::Value Context::decode(const Napi::CallbackInfo & info) {
    const Napi::Env env = info.Env();
    const size_t n_embd = idle(env)->n_embd();
    const auto in = info[0].As<Napi::Object>();
    auto decoding = std::make_shared<Decoding>();
    Step & step = decoding->step;
    step.tokens = to_ints(in.Get("tokens"));
    step.positions = to_ints(in.Get("positions"));
    step.sequences = to_ints(in.Get("sequences"));
    step.outputs = to_vector<Napi::Uint8Array, int8_t>(in.Get("outputs"));
    decoding->states.fill(in, n_embd, step);
    step.cuts = to_cuts(in.Get("cuts"));
    const auto readings = in.Get("readings").As<Napi::Object>();
    step.read_options = to_read_options(readings);
    const std::vector<int32_t> rows = to_ints(readings.Get("rows"));
    const std::vector<int32_t> given = to_ints(readings.Get("given"));
    const std::vector<int32_t> seeds = to_ints(readings.Get("seeds"));
    const std::vector<int32_t> own = to_ints(readings.Get("ownTracked"));
    const std::vector<int32_t> own_counts = to_ints(readings.Get("ownTrackedCounts"));
    if (given.size() != rows.size() || seeds.size() != rows.size() || own_counts.size() != rows.size()) {
        throw coded_error(env, "engine",
                          "Each row that is read needs a given token (or -1), a seed and a count.");
    }
    auto next = own.begin();
    for (size_t i = 0; i < rows.size(); ++i) {
        if (own_counts[i] < 0 || own_counts[i] > own.end() - next) {
            throw coded_error(env, "engine", "The rows have fewer tracked tokens than they count.");
        }
        step.logit_reads.push_back({rows[i], given[i], (uint32_t)seeds[i], {next, next + own_counts[i]}});
        next += own_counts[i];
    }
    add_contrasts(readings.Get("contrasts"), step.logit_reads);
    return run<Nothing>(
        env,
        [decoding](Decoder & decoder) {
            decoding->results = decoder.decode(decoding->step);
            return Nothing{};
        },
        [decoding](Napi::Env env, Nothing &) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("captures", decoding->states.captures(env, decoding->step));
            out.Set("readings", to_object(env, decoding->results));
            return out;
        });
}

Napi::Value Context::encode(const Napi::CallbackInfo & info) {
    const Napi::Env env = info.Env();
    const size_t n_embd = idle(env)->n_embd();
    const auto in = info[0].As<Napi::Object>();
    auto encoding = std::make_shared<Encoding>();
    encoding->step.tokens = to_ints(in.Get("tokens"));
    encoding->step.sequences = to_ints(in.Get("sequences"));
    encoding->states.fill(in, n_embd, encoding->step);
    return run<Nothing>(
        env,
        [encoding](Decoder & decoder) {
            decoder.encode(encoding->step);
            return Nothing{};
        },
        [encoding](Napi::Env env, Nothing &) -> Napi::Value {
            return encoding->states.captures(env, encoding->step);
        });
}

Napi::Value Context::lens(const Napi::CallbackInfo & info) {
    const Napi::Env env = info.Env();
    auto states = std::make_shared<std::vector<float>>(to_floats(info[0]));
    const auto readings = info[1].As<Napi::Object>();
    const int32_t n = info[2].As<Napi::Number>().Int32Value();
    if (states->size() != (size_t)n * idle(env)->n_embd()) {
        throw coded_error(env, "engine",
                          "The states are not " + std::to_string(n) + " rows of the model's width.");
    }
    const ReadOptions options = to_read_options(readings);
    return run<LogitResults>(
        env, [=](Decoder & decoder) { return decoder.lens(states->data(), n, options); },
        [](Napi::Env env, LogitResults & results) -> Napi::Value { return to_object(env, results); });
}

void Context::clear(const Napi::CallbackInfo & info) { idle(info.Env())->clear(); }

void Context::copy_sequence(const Napi::CallbackInfo & info) {
    idle(info.Env())
        ->copy_sequence(info[0].As<Napi::Number>().Int32Value(), info[1].As<Napi::Number>().Int32Value());
}

void Context::remove_sequence(const Napi::CallbackInfo & info) {
    try {
        idle(info.Env())
            ->remove_sequence(info[0].As<Napi::Number>().Int32Value(),
                              info[1].As<Napi::Number>().Int32Value());
    } catch (const Error & error) {
        throw coded_error(info.Env(), error.code, error.what());
    }
}

void Context::close(const Napi::CallbackInfo &) {
    if (decoder_ != nullptr) {
        decoder_->abort();
        decoder_.reset();
    }
}

} // namespace ps
