// The states that the reads of a step are contrasted with, read along with those that are asked for.
#pragma once

#include "decoder.h"

#include <vector>

namespace ps {

struct ContrastState {
    const float * values;
    bool finite;
};

class ContrastStates {
public:
    // Adds reads to the step, and takes them out again at its own end.
    ContrastStates(Step & step, int64_t n_embd);
    ~ContrastStates();
    ContrastStates(const ContrastStates &) = delete;
    ContrastStates & operator=(const ContrastStates &) = delete;

    // Of each contrast its states, in the order of the step's reads.
    std::vector<ContrastState> all() const;

private:
    struct Place {
        size_t read; // one of the step's
        size_t row;  // of that read
    };

    Step & step_;
    const int64_t n_embd_;
    const size_t n_asked_; // reads of the step that are not ours
    std::vector<Place> places_;
    std::vector<float> values_;
};

} // namespace ps
