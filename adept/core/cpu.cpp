#include "adept/core/cpu.h"

#include <sched.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

namespace adept {
namespace {

namespace fs = std::filesystem;

std::string first_line_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The logical CPUs of the affinity mask; empty if the kernel does not report it.
std::set<int> affinity_mask() {
  std::set<int> cpus;
  for (int size = 1024; size <= 1 << 20 && cpus.empty(); size *= 2) {  // EINVAL: the kernel's mask is longer
    cpu_set_t* mask = CPU_ALLOC(size);
    if (mask == nullptr) break;
    if (sched_getaffinity(0, CPU_ALLOC_SIZE(size), mask) == 0)
      for (int cpu = 0; cpu < size; ++cpu)
        if (CPU_ISSET_S(cpu, CPU_ALLOC_SIZE(size), mask)) cpus.insert(cpu);
    CPU_FREE(mask);
  }
  return cpus;
}

/// cpu.max of version 2: "max 100000" or "150000 100000"; 0 = no limit.
double quota_v2(const fs::path& group) {
  std::istringstream line(first_line_of(group / "cpu.max"));
  double quota = 0, period = 0;
  return line >> quota >> period && quota > 0 && period > 0 ? quota / period : 0;
}

/// Version 1 has a file for each; the quota is -1 if there is no limit.
double quota_v1(const fs::path& group) {
  std::istringstream quota_line(first_line_of(group / "cpu.cfs_quota_us"));
  std::istringstream period_line(first_line_of(group / "cpu.cfs_period_us"));
  double quota = 0, period = 0;
  return quota_line >> quota && period_line >> period && quota > 0 && period > 0 ? quota / period : 0;
}

/// The smallest limit of `group` and its ancestors. Inside a container the path may not exist; its root still does.
double smallest_quota(const fs::path& mount, fs::path group, double (*quota)(const fs::path&)) {
  double smallest = 0;
  for (group = group.relative_path();; group = group.parent_path()) {
    const double limit = quota(mount / group);
    if (limit > 0) smallest = smallest > 0 ? std::min(smallest, limit) : limit;
    if (group.empty()) return smallest;
  }
}

/// The value of the first "key : value" line of /proc/cpuinfo.
std::string cpuinfo(std::string_view key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos || !line.starts_with(key)) continue;
    if (line.find_first_not_of(" \t", key.size()) != colon) continue;
    const auto value = line.find_first_not_of(" \t", colon + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

}  // namespace

namespace detail {

int count_physical_cores(const fs::path& root, const std::set<int>& cpus) {
  std::set<std::string> cores;
  for (int cpu : cpus) {
    const std::string name = "cpu" + std::to_string(cpu);
    const std::string siblings =
        first_line_of(root / "sys/devices/system/cpu" / name / "topology" / "thread_siblings_list");
    cores.insert(siblings.empty() ? name : siblings);
  }
  return static_cast<int>(cores.size());
}

int cgroup_cpu_limit(const fs::path& root) {
  // Lines of /proc/self/cgroup: "0::/path" for version 2, "1:cpu,cpuacct:/path" for a controller of version 1.
  std::ifstream groups(root / "proc/self/cgroup");
  double smallest = 0;
  const auto consider = [&](double limit) {
    if (limit > 0) smallest = smallest > 0 ? std::min(smallest, limit) : limit;
  };
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const fs::path group = line.substr(second + 1);
    if (controllers == ",,") consider(smallest_quota(root / "sys/fs/cgroup", group, quota_v2));
    if (controllers.find(",cpu,") == std::string::npos) continue;
    for (const char* mount : {"sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"})
      consider(smallest_quota(root / mount, group, quota_v1));
  }
  return static_cast<int>(std::ceil(std::min(smallest, 1e6)));
}

}  // namespace detail

int available_cores() {
  int cores = detail::count_physical_cores("/", affinity_mask());
  if (cores == 0) cores = static_cast<int>(std::thread::hardware_concurrency());
  const int limit = detail::cgroup_cpu_limit("/");
  if (limit > 0) cores = std::min(cores, limit);
  return std::max(cores, 1);
}

bool cpu_has_native_bf16() {
  const std::vector<std::string> sets = cpu_instruction_sets();
  const auto has = [&](const char* name) { return std::find(sets.begin(), sets.end(), name) != sets.end(); };
  return has("avx512_bf16") || has("amx_bf16") || has("bf16");
}

std::string cpu_model_name() {
  const std::string name = cpuinfo("model name");
  return name.empty() ? "unknown" : name;
}

std::vector<std::string> cpu_instruction_sets() {
  // x86 first, then the names of Arm's "Features" line.
  constexpr std::string_view kKnown[] = {
      "sse4_2",   "avx",         "f16c",        "fma",         "avx2",     "avx_vnni", "avx512f",  "avx512bw",
      "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd",
      "asimdhp",  "asimddp",     "sve",         "sve2",        "i8mm",     "bf16"};
  std::string flags = cpuinfo("flags");
  if (flags.empty()) flags = cpuinfo("Features");
  std::istringstream words(flags);
  std::set<std::string> present;
  for (std::string word; words >> word;) present.insert(word);
  std::vector<std::string> sets;
  for (std::string_view name : kKnown)
    if (present.contains(std::string(name))) sets.emplace_back(name);
  return sets;
}

}  // namespace adept
