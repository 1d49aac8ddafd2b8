#include "adept/core/cpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <fstream>

#include "adept/core/gpu.h"

namespace adept {
namespace {

namespace fs = std::filesystem;

/// A made-up root directory with files of /proc and /sys.
class FakeRoot {
 public:
  FakeRoot() : path_(fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(path_);
  }
  ~FakeRoot() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((path_ / file).parent_path());
    std::ofstream(path_ / file) << text << '\n';
  }

 private:
  fs::path path_;
};

TEST(Cores, HardwareThreadsOfOneCoreCountOnce) {
  const FakeRoot root;
  for (int cpu = 0; cpu < 8; ++cpu)
    root.write("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
               std::to_string(cpu % 4) + "," + std::to_string(cpu % 4 + 4));
  EXPECT_EQ(detail::count_physical_cores(root.path(), {0, 1, 2, 3, 4, 5, 6, 7}), 4);
  EXPECT_EQ(detail::count_physical_cores(root.path(), {0, 4}), 1);
  EXPECT_EQ(detail::count_physical_cores(root.path(), {0, 5}), 2);
}

TEST(Cores, WithoutTopologyEachLogicalCpuCounts) {
  const FakeRoot root;
  EXPECT_EQ(detail::count_physical_cores(root.path(), {0, 1, 5}), 3);
}

TEST(Cores, QuotaOfVersion2IsTheSmallestUpTheTree) {
  const FakeRoot root;
  root.write("proc/self/cgroup", "0::/a/b");
  EXPECT_EQ(detail::cgroup_cpu_limit(root.path()), 0);
  root.write("sys/fs/cgroup/a/b/cpu.max", "max 100000");
  EXPECT_EQ(detail::cgroup_cpu_limit(root.path()), 0);
  root.write("sys/fs/cgroup/a/cpu.max", "250000 100000");
  EXPECT_EQ(detail::cgroup_cpu_limit(root.path()), 3);
  root.write("sys/fs/cgroup/a/b/cpu.max", "400000 100000");
  EXPECT_EQ(detail::cgroup_cpu_limit(root.path()), 3);
  root.write("sys/fs/cgroup/a/b/cpu.max", "50000 100000");
  EXPECT_EQ(detail::cgroup_cpu_limit(root.path()), 1);
}

TEST(Cores, QuotaOfAContainerWhosePathIsHiddenIsAtTheRoot) {
  const FakeRoot root;
  root.write("proc/self/cgroup", "0::/docker/0123");
  root.write("sys/fs/cgroup/cpu.max", "200000 100000");
  EXPECT_EQ(detail::cgroup_cpu_limit(root.path()), 2);
}

TEST(Cores, QuotaOfVersion1) {
  const FakeRoot root;
  root.write("proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/job\n1:cpuset:/c");
  root.write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1");
  root.write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000");
  EXPECT_EQ(detail::cgroup_cpu_limit(root.path()), 0);
  root.write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "150000");
  EXPECT_EQ(detail::cgroup_cpu_limit(root.path()), 2);
}

TEST(Cores, DamagedFilesMeanNoLimit) {
  const FakeRoot root;
  root.write("proc/self/cgroup", "nonsense\n0:\n0::/a\n1:cpu:/b");
  root.write("sys/fs/cgroup/a/cpu.max", "x y");
  root.write("sys/fs/cgroup/cpu.max", "100000 0");
  root.write("sys/fs/cgroup/cpu/b/cpu.cfs_quota_us", "");
  EXPECT_EQ(detail::cgroup_cpu_limit(root.path()), 0);
}

TEST(Cores, AffinityMaskLimitsTheCount) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  const int all = available_cores();
  EXPECT_GE(all, 1);
  EXPECT_LE(all, CPU_COUNT(&before));
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(available_cores(), 1);
  sched_setaffinity(0, sizeof(before), &before);
}

TEST(Gpu, IsTheFirstThatTheDriverLists) {
  const FakeRoot root;
  EXPECT_EQ(detail::gpu_model_name(root.path()), "unknown GPU") << "no driver";
  const std::string gpus = "proc/driver/nvidia/gpus/";
  root.write(gpus + "0000:c1:00.0/information", "Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 18");
  EXPECT_EQ(detail::gpu_model_name(root.path()), "NVIDIA A100-SXM4-40GB");
  root.write(gpus + "0000:41:00.0/information", "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 17");
  EXPECT_EQ(detail::gpu_model_name(root.path()), "NVIDIA H100 80GB HBM3") << "in the order of the bus";
}

TEST(Gpu, IsUnknownWhereTheDriverDoesNotTellItsModel) {
  for (const char* information : {"", "Model:", "Model: \t\t "}) {
    const FakeRoot root;
    root.write("proc/driver/nvidia/gpus/0000:41:00.0/information", information);
    EXPECT_EQ(detail::gpu_model_name(root.path()), "unknown GPU") << information;
  }
  const FakeRoot root;
  fs::create_directories(root.path() / "proc/driver/nvidia/gpus/0000:41:00.0");
  EXPECT_EQ(detail::gpu_model_name(root.path()), "unknown GPU") << "a GPU without a file";
}

TEST(Cpu, InstructionSetsAgreeWithTheCompilersView) {
  const std::vector<std::string> sets = cpu_instruction_sets();
  const auto has = [&](const std::string& name) { return std::find(sets.begin(), sets.end(), name) != sets.end(); };
#ifdef __x86_64__
  EXPECT_EQ(has("avx2"), __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(has("fma"), __builtin_cpu_supports("fma") != 0);
  EXPECT_EQ(has("avx512f"), __builtin_cpu_supports("avx512f") != 0);
  EXPECT_EQ(has("avx512_bf16"), __builtin_cpu_supports("avx512bf16") != 0);
#endif
  EXPECT_EQ(cpu_has_native_bf16(), has("avx512_bf16") || has("amx_bf16") || has("bf16"));
  EXPECT_FALSE(cpu_model_name().empty());
}

}  // namespace
}  // namespace adept
