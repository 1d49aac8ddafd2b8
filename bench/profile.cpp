#include "bench/profile.h"

#include <ATen/record_function.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace adept::bench {
namespace {

struct Total {
  double seconds = 0;
  int calls = 0;
};

struct Open {
  std::string part;
  std::chrono::steady_clock::time_point start;
  double of_others = 0;  // seconds in what it called
};

// Of the thread that works: graphs on the CPU are run backward by the thread that asks for it.
thread_local std::vector<Open> stack;
thread_local std::map<std::string, Total> totals, parts;

// What an operation belongs to, unless something that called it says so.
std::string part_of(const std::string& operation) {
  static const std::map<std::string, std::vector<std::string>> kParts = {
      {"matrix products", {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::linear", "matmul"}},
      {"attention", {"attention", "attention_backward", "aten::scaled_dot_product_attention"}},
      {"norms, RoPE, gate, residual adds",
       {"rms_norm", "rms_norm_backward", "add_rms_norm", "rope", "normed_rope", "normed_rope_backward", "gated",
        "gated_backward", "aten::add", "aten::add_"}}};
  for (const auto& [part, operations] : kParts)
    if (std::find(operations.begin(), operations.end(), operation) != operations.end()) return part;
  return "rest";
}

std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction& function) {
  const std::string name = function.name();
  const bool is_part = name == "head and loss" || name == "optimizer";
  const bool is_inside = !stack.empty() && (stack.back().part == "head and loss" || stack.back().part == "optimizer");
  stack.push_back({.part = is_part     ? name
                           : is_inside ? stack.back().part
                                       : part_of(name),
                   .start = std::chrono::steady_clock::now()});
  return nullptr;
}

void leave(const at::RecordFunction& function, at::ObserverContext*) {
  const Open open = stack.back();
  stack.pop_back();
  const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - open.start).count();
  if (!stack.empty()) stack.back().of_others += all;
  for (Total* total : {&totals[function.name()], &parts[open.part]}) {
    total->seconds += all - open.of_others;
    ++total->calls;
  }
}

}  // namespace

std::string profile(const std::function<void()>& work, int repeats) {
  work();
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(enter, leave));
  totals.clear();
  parts.clear();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) work();
  const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  at::removeCallback(handle);
  double known = 0;
  for (const auto& [part, total] : parts) known += total.seconds;
  parts["rest"].seconds += all - known;
  std::string table;
  const auto add = [&](const std::string& title, const std::map<std::string, Total>& of_names) {
    std::vector<std::pair<std::string, Total>> rows(of_names.begin(), of_names.end());
    std::sort(rows.begin(), rows.end(),
              [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
    table += fmt::format("{:<44} {:>9} {:>7} {:>7}\n", title, "ms", "%", "calls");
    for (const auto& [name, total] : rows)
      if (total.seconds >= 1e-3 * all)
        table += fmt::format("{:<44} {:>9.1f} {:>7.1f} {:>7}\n", name.substr(0, 44), 1e3 * total.seconds / repeats,
                             100 * total.seconds / all, total.calls / repeats);
  };
  add("part", parts);
  table += fmt::format("{:<44} {:>9.1f}\n\n", "whole", 1e3 * all / repeats);
  add("operation", totals);
  return table;
}

}  // namespace adept::bench
