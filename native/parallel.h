// Splits a range of rows over a few short-lived threads.
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

namespace ps {

// Calls work(i) once for each i in [0, n), on at most n_threads threads; work must not throw.
template <class Work> void parallel_for(int n, int n_threads, Work work) {
    const int used = std::max(1, std::min(n, n_threads));
    const auto share = [&](int thread) {
        for (int i = thread; i < n; i += used) {
            work(i);
        }
    };
    std::vector<std::thread> threads;
    for (int t = 1; t < used; ++t) {
        threads.emplace_back(share, t);
    }
    share(0);
    for (std::thread & thread : threads) {
        thread.join();
    }
}

} // namespace ps
