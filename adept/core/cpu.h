// CPU information: the cores that this process may use, and their instruction sets.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace adept {

/// Physical cores that this process may use, at least 1: those of the affinity mask, two hardware threads of one core
/// counted once, limited by the CPU quota of the control groups (v1 and v2).
int available_cores();

/// Whether bf16 products run at full rate: AVX512-BF16, AMX-BF16, or Arm's BF16 extension.
bool cpu_has_native_bf16();

/// "AMD EPYC 9R14", or "unknown".
std::string cpu_model_name();

/// The instruction sets that matter to numerics and speed, as the kernel spells them: "avx2", "fma", "avx512_bf16" ...
std::vector<std::string> cpu_instruction_sets();

namespace detail {
/// Distinct cores among the logical CPUs, from /sys below `root`; an unknown topology counts each CPU.
int count_physical_cores(const std::filesystem::path& root, const std::set<int>& cpus);
/// The smallest CPU quota of the process's control group and its ancestors, rounded up; 0 if there is none.
int cgroup_cpu_limit(const std::filesystem::path& root);
}  // namespace detail

}  // namespace adept
