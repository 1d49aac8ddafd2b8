// Which instruction set the kernels take.
#include "adept/kernels/instruction_set.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string>

namespace adept::kernels {
namespace {

// Gives the variable back as it was: the programs of some tests have it.
class InstructionSetTest : public ::testing::Test {
 protected:
  InstructionSetTest() {
    if (const char* value = std::getenv("ADEPT_INSTRUCTION_SET")) before_ = value;
  }
  ~InstructionSetTest() override {
    if (before_)
      ::setenv("ADEPT_INSTRUCTION_SET", before_->c_str(), 1);
    else
      ::unsetenv("ADEPT_INSTRUCTION_SET");
  }

 private:
  std::optional<std::string> before_;
};

TEST_F(InstructionSetTest, IsNotChosenByAnEmptyVariable) {
  ::unsetenv("ADEPT_INSTRUCTION_SET");
  EXPECT_FALSE(instruction_set_was_chosen());
  ::setenv("ADEPT_INSTRUCTION_SET", "", 1);
  EXPECT_FALSE(instruction_set_was_chosen());
  ::setenv("ADEPT_INSTRUCTION_SET", "generic", 1);
  EXPECT_TRUE(instruction_set_was_chosen());
}

}  // namespace
}  // namespace adept::kernels
