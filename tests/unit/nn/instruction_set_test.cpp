// Which instruction set the kernels take.
#include "adept/kernels/instruction_set.h"

#include <gtest/gtest.h>

#include <string>

#include "adept/core/cpu.h"
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

TEST(InstructionSet, Bf16IsNativeWhereTheProcessorHasItUnlessAnotherSetWasChosen) {
  const InstructionSet of_this_process = instruction_set();  // decided once, before the variable changes
  const test::ScopedVariable variable("ADEPT_INSTRUCTION_SET");
  EXPECT_EQ(multiplies_bf16(), cpu_has_native_bf16());
  variable.set(std::string(to_string(of_this_process)));
  EXPECT_EQ(multiplies_bf16(), of_this_process == InstructionSet::kAvx512Bf16);
}

}  // namespace
}  // namespace adept::kernels
