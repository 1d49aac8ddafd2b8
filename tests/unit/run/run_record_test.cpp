#include "adept/run/run_record.h"

#include <gmock/gmock.h>

#include "adept/core/error.h"
#include "tests/support/temporary_directory.h"

namespace adept::run {
namespace {

config::RunConfig config_with_three_threads() {
  return config::parse_run_config(
      "model: m\noutput_dir: o\nthreads: 3\n"
      "data: {train: [{name: t, path: p}], general: [{name: g, path: p}]}\n",
      "test");
}

TEST(RunRecord, HoldsTheResolvedConfigurationAndTheVersions) {
  const test::TemporaryDirectory folder;
  const config::RunConfig config = config_with_three_threads();
  write_run_record(folder.path(), config);
  EXPECT_EQ(config::to_yaml(config::load_run_config((folder / "config.yaml").string())), config::to_yaml(config));
  const Json versions = read_json(folder / "versions.json");
  for (const char* key : {"adept", "commit", "torch", "compiler", "cpu"})
    EXPECT_FALSE(versions.at(key).get<std::string>().empty()) << key;
  EXPECT_TRUE(versions.at("instruction_sets").is_array());
  EXPECT_EQ(versions.at("threads"), 3);
}

TEST(RunRecord, NamesTheFileThatItCannotWrite) {
  try {
    write_run_record("/no/such/folder", config_with_three_threads());
    FAIL() << "no error";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), testing::StartsWith("/no/such/folder/versions.json: cannot create: No such file"));
  }
}

}  // namespace
}  // namespace adept::run
