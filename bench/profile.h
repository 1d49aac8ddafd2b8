// Where the time of a piece of work goes, by operation.
#pragma once

#include <functional>
#include <string>

namespace adept::bench {

/// Runs `work` once to warm up and `repeats` times more; a table of the operations of ATen and of adept/nn, and of the
/// nodes of the graph, by the time spent in each and not in what it calls: milliseconds per repeat, share, calls.
std::string profile(const std::function<void()>& work, int repeats);

}  // namespace adept::bench
