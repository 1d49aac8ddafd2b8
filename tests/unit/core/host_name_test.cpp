#include "adept/core/host_name.h"

#include <gmock/gmock.h>

#include <fstream>

namespace adept {
namespace {

TEST(MachineIdentity, IsTheNameAndWhatDiffersBetweenCopiesOfAMachine) {
  std::string boot_id;
  if (!(std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id)) GTEST_SKIP() << "this kernel has no boot id";
  EXPECT_EQ(machine_identity(), host_name() + " " + boot_id);
}

}  // namespace
}  // namespace adept
