#include "bench/profile.h"

#include <ATen/record_function.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <vector>

namespace adept::bench {
namespace {

struct Total {
  double seconds = 0;
  int calls = 0;
};

struct Open {
  std::chrono::steady_clock::time_point start;
  double of_others = 0;  // seconds in what it called
};

// Of the thread that works: graphs on the CPU are run backward by the thread that asks for it.
thread_local std::vector<Open> stack;
thread_local std::map<std::string, Total> totals;

std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction&) {
  stack.push_back({std::chrono::steady_clock::now()});
  return nullptr;
}

void leave(const at::RecordFunction& function, at::ObserverContext*) {
  const Open open = stack.back();
  stack.pop_back();
  const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - open.start).count();
  if (!stack.empty()) stack.back().of_others += all;
  Total& total = totals[function.name()];
  total.seconds += all - open.of_others;
  ++total.calls;
}

}  // namespace

std::string profile(const std::function<void()>& work, int repeats) {
  work();
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(enter, leave));
  totals.clear();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) work();
  const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  at::removeCallback(handle);
  std::vector<std::pair<std::string, Total>> rows(totals.begin(), totals.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  std::string table = fmt::format("{:<44} {:>9} {:>7} {:>7}\n", "operation", "ms", "%", "calls");
  double known = 0;
  const auto line = [&](const std::string& name, double seconds, int calls) {
    table += fmt::format("{:<44} {:>9.1f} {:>7.1f} {:>7}\n", name.substr(0, 44), 1e3 * seconds / repeats,
                         100 * seconds / all, calls / repeats);
  };
  for (const auto& [name, total] : rows) {
    known += total.seconds;
    if (total.seconds >= 1e-3 * all) line(name, total.seconds, total.calls);
  }
  line("(outside of all)", all - known, 0);
  line("whole", all, repeats);
  return table;
}

}  // namespace adept::bench
