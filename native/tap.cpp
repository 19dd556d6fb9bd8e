#include "tap.h"

#include "error.h"

#include "ggml-backend.h"

#include <algorithm>
#include <utility>

namespace ps {

namespace {

template <class Entries> auto find_entry(Entries & entries, const SiteKey & key) {
    return std::find_if(entries.begin(), entries.end(), [&](const auto & entry) { return entry.key == key; });
}

// Calls transfer(first row, number of rows, offset in the list) once for each run of neighbouring rows,
// since on a device every transfer costs a round trip.
template <class Transfer> void for_runs(const std::vector<int32_t> & rows, Transfer transfer) {
    for (size_t begin = 0; begin < rows.size();) {
        size_t end = begin + 1;
        while (end < rows.size() && rows[end] == rows[end - 1] + 1) {
            ++end;
        }
        transfer((size_t)rows[begin], end - begin, begin);
        begin = end;
    }
}

} // namespace

void Tap::arm(std::vector<SiteRead> & reads, const std::vector<SiteWrite> & writes,
              std::vector<int32_t> output_index) {
    reads_ = &reads;
    writes_ = &writes;
    output_index_ = std::move(output_index);
    n_outputs_ =
        (int32_t)std::count_if(output_index_.begin(), output_index_.end(), [](int32_t i) { return i >= 0; });
    rows_read_.assign(reads.size(), 0);
    rows_written_.assign(writes.size(), 0);
    failure_.clear();
    before_.clear();
    wanted_ = nullptr;
}

void Tap::disarm() {
    const auto * reads = std::exchange(reads_, nullptr);
    const auto * writes = std::exchange(writes_, nullptr);
    if (!failure_.empty()) {
        throw Error("edit_mismatch", failure_);
    }
    const auto check = [](const auto & entries, const std::vector<size_t> & counts, const char * done) {
        for (size_t i = 0; i < entries.size(); ++i) {
            if (counts[i] != entries[i].tokens.size()) {
                throw Error("edit_mismatch", "Of " + std::to_string(entries[i].tokens.size()) +
                                                 " states planned to be " + done + " at " +
                                                 to_string(entries[i].key) + " " + std::to_string(counts[i]) +
                                                 " were: the results are thrown away.");
            }
        }
    };
    check(*reads, rows_read_, "read");
    check(*writes, rows_written_, "written");
}

bool Tap::on_node(ggml_tensor * node, bool ask, void * self) {
    Tap * tap = static_cast<Tap *>(self);
    if (ask) {
        return tap->wants(node);
    }
    try {
        tap->visit(node);
    } catch (const std::exception & error) { // none may pass through ggml
        tap->fail(error.what());
    }
    return true; // false would not cancel the decode, only end a piece of it
}

bool Tap::wants(ggml_tensor * node) {
    if (reads_ == nullptr || (reads_->empty() && writes_->empty())) {
        return false;
    }
    wanted_ = sites_.find(node, before_);
    before_.push_back(node);
    return wanted_ != nullptr && (find_entry(*reads_, *wanted_) != reads_->end() ||
                                  find_entry(*writes_, *wanted_) != writes_->end());
}

void Tap::visit(ggml_tensor * node) {
    const SiteKey * key = wanted_;
    if (key == nullptr || reads_ == nullptr || !failure_.empty()) {
        return;
    }
    if (node->type != GGML_TYPE_F32 || node->ne[0] != n_embd_ || !ggml_is_contiguous(node)) {
        return fail("The state at " + to_string(*key) + " has changed its shape: nothing was written there.");
    }
    const size_t row_bytes = n_embd_ * sizeof(float);
    const auto rows_of = [&](const std::vector<int32_t> & tokens) {
        std::vector<int32_t> rows;
        rows.reserve(tokens.size());
        for (int32_t token : tokens) {
            rows.push_back(row_of(node, token, *key));
        }
        return rows;
    };
    // writes first: a read at the same site sees what goes on into the next block
    for (size_t i = 0; i < writes_->size(); ++i) {
        const SiteWrite & write = (*writes_)[i];
        if (!(write.key == *key)) {
            continue;
        }
        const std::vector<int32_t> rows = rows_of(write.tokens);
        if (!failure_.empty()) {
            return;
        }
        this->write(node, write, rows);
        rows_written_[i] += rows.size();
    }
    for (size_t i = 0; i < reads_->size(); ++i) {
        const SiteRead & read = (*reads_)[i];
        if (!(read.key == *key)) {
            continue;
        }
        const std::vector<int32_t> rows = rows_of(read.tokens);
        if (!failure_.empty()) {
            return;
        }
        for_runs(rows, [&](size_t row, size_t n, size_t at) {
            ggml_backend_tensor_get(node, read.states + at * n_embd_, row * row_bytes, n * row_bytes);
        });
        rows_read_[i] += rows.size();
    }
}

void Tap::write(ggml_tensor * node, const SiteWrite & write, const std::vector<int32_t> & rows) {
    const size_t row_bytes = n_embd_ * sizeof(float);
    edited_.resize(rows.size() * n_embd_);
    for_runs(rows, [&](size_t row, size_t n, size_t at) {
        float * states = edited_.data() + at * n_embd_;
        if (needs_state(write.op)) {
            ggml_backend_tensor_get(node, states, row * row_bytes, n * row_bytes);
        }
        for (size_t i = 0; i < n; ++i) {
            const float * vector =
                needs_vector(write.op) ? write.vectors.data() + (at + i) * n_embd_ : nullptr;
            apply_edit(write.op, write.alphas[at + i], vector, states + i * n_embd_, n_embd_);
        }
        ggml_backend_tensor_set(node, states, row * row_bytes, n * row_bytes);
    });
}

// The last block keeps only the rows whose logits are asked for: which rows a node has is told by its
// row count, never by its layer or the architecture's name.
int32_t Tap::row_of(const ggml_tensor * node, int32_t token, const SiteKey & key) {
    const int64_t n_tokens = (int64_t)output_index_.size();
    const int64_t n_rows =
        ggml_nrows(node); // sequence after sequence where they have a dimension of their own
    if (n_rows == n_tokens) {
        return token;
    }
    if (n_rows != n_outputs_) {
        fail("The state at " + to_string(key) + " has " + std::to_string(n_rows) + " rows where " +
             std::to_string(n_tokens) + " tokens with " + std::to_string(n_outputs_) +
             " outputs were decoded.");
        return 0;
    }
    if (output_index_[token] < 0) {
        fail("The state at " + to_string(key) + " has no row for token " + std::to_string(token) +
             " of the batch, whose output was not asked for.");
        return 0;
    }
    return output_index_[token];
}

void Tap::fail(const std::string & reason) {
    if (failure_.empty()) {
        failure_ = reason;
    }
}

} // namespace ps
