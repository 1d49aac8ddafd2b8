// Which instruction set the kernels take.
#include "adept/kernels/instruction_set.h"

#include <gtest/gtest.h>

#include "tests/support/environment.h"

namespace adept::kernels {
namespace {

TEST(InstructionSet, IsNotChosenByAnEmptyVariable) {
  const test::ScopedVariable variable("ADEPT_INSTRUCTION_SET");  // the programs of some tests have it
  EXPECT_FALSE(instruction_set_was_chosen());
  variable.set("");
  EXPECT_FALSE(instruction_set_was_chosen());
  variable.set("generic");
  EXPECT_TRUE(instruction_set_was_chosen());
}

}  // namespace
}  // namespace adept::kernels
