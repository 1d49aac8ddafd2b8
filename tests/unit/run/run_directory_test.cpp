#include "adept/run/run_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "tests/support/tiny_models.h"

namespace adept::run {
namespace {

TEST(RunDirectory, RemovesWhatItMadeAndNobodyFilled) {
  const test::TemporaryDirectory dir;
  {
    const RunDirectory run(dir / "a/b/run");
    EXPECT_TRUE(std::filesystem::is_regular_file(run.path() / ".lock"));
    std::filesystem::create_directories(run.path() / "stages");
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "a"));
}

TEST(RunDirectory, KeepsWhatHoldsSomethingAndWhatWasThere) {
  const test::TemporaryDirectory dir;
  std::filesystem::create_directories(dir / "was-there");
  {
    const RunDirectory run(dir / "was-there");
  }
  EXPECT_TRUE(std::filesystem::is_directory(dir / "was-there"));
  {
    const RunDirectory run(dir / "a/filled");
    std::filesystem::create_directories(run.path() / "data");
    test::write_file(run.path() / "data/x.tokens", "tokens");
  }
  EXPECT_TRUE(std::filesystem::exists(dir / "a/filled/data/x.tokens"));
}

TEST(RunDirectory, IsLockedWhileItIsUsed) {
  const test::TemporaryDirectory dir;
  const RunDirectory run(dir / "run/");
  try {
    const RunDirectory second(dir / "run");
    FAIL() << "two at once";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("is using this folder"));
  }
  EXPECT_TRUE(std::filesystem::exists(run.path() / ".lock"));
}

TEST(RunDirectory, NamesThePlaceThatCannotBeMade) {
  const test::TemporaryDirectory dir;
  test::write_file(dir / "file", "");
  try {
    const RunDirectory run(dir / "file/run");
    FAIL() << "made below a file";
  } catch (const DataError& error) {
    EXPECT_EQ(error.what(), "output_dir: " + (dir / "file/run").string() +
                                " cannot be created: Not a directory. Choose another directory.");
  }
}

}  // namespace
}  // namespace adept::run
