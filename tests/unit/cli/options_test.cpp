#include "cli/options.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "adept/core/cpu.h"
#include "adept/core/error.h"
#include "adept/kernels/instruction_set.h"
#include "adept/run/model_context.h"
#include "tests/support/captured_log.h"
#include "tests/support/reads.h"

namespace adept::cli {
namespace {

using data::TextSource;
using test::Reads;
using testing::ElementsAre;

std::vector<TextSource> sources_of(const std::vector<std::string>& data) {
  DataOptions options;
  options.data = data;
  return sources(options);
}

std::string error_of(const std::vector<std::string>& data) {
  try {
    sources_of(data);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

TEST(DataOption, NamesComeFromTheArgumentOrTheFile) {
  for (const auto& [argument, name] :
       std::vector<std::pair<std::string, std::string>>{{"med=a/b.txt", "med"},
                                                        {"a/medical.jsonl.gz", "medical"},
                                                        {"a/medical.dev.txt", "medical.dev"},
                                                        {"a/folder/", "folder"},
                                                        {"a/folder/.", "folder"},
                                                        {"*.txt", "data_"},
                                                        {"a b.txt", "a_b"},
                                                        {"dir=x/file=1.txt", "dir"},
                                                        {"./dir=x/file.txt", "file"}})
    EXPECT_EQ(sources_of({argument}).at(0).name, name) << argument;
  EXPECT_THAT(sources_of({"med=a=b.txt"}).at(0).paths, ElementsAre("a=b.txt"));
}

TEST(DataOption, EqualGivenNamesFormOneSourceInOrder) {
  const std::vector<TextSource> result = sources_of({"a=1.txt", "b=2.txt", "a=3.txt"});
  ASSERT_EQ(result.size(), 2u);
  EXPECT_THAT(result[0].paths, ElementsAre("1.txt", "3.txt"));
  EXPECT_EQ(result[1].name, "b");
}

TEST(DataOption, AFileWithAnEqualsSignIsAFile) {
  const auto folder = std::filesystem::temp_directory_path() / "adept_data_option";
  std::filesystem::create_directories(folder);
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder);
  std::ofstream("k=v.txt") << "text";
  const std::vector<TextSource> result = sources_of({"k=v.txt"});
  std::filesystem::current_path(before);
  std::filesystem::remove_all(folder);
  EXPECT_EQ(result.at(0).name, "k_v");
  EXPECT_THAT(result.at(0).paths, ElementsAre("k=v.txt"));
}

TEST(DataOption, RefusesWhatItWouldHaveToGuess) {
  EXPECT_THAT(error_of({"a="}), Reads("--data a=: ...empty path...expected [NAME=]PATH..."));
  EXPECT_THAT(error_of({""}), Reads("--data : ...empty path...expected [NAME=]PATH..."));
  EXPECT_THAT(error_of({"a b=c.txt"}), Reads("--data a b=c.txt: ...\"a b\"...expected 1 to 64 letters..."));
  EXPECT_THAT(error_of({"x/dev.txt", "y/dev.txt"}), Reads("--data y/dev.txt: ...\"dev\"...--data NAME=y/dev.txt..."));
  EXPECT_THAT(error_of({"dev=x.txt", "dev.txt"}), Reads("--data dev.txt: ...\"dev\"...--data NAME=dev.txt..."));
}

TEST(Options, OfAConfigurationOverrideItsKeys) {
  CLI::App app;
  std::string path;
  std::vector<std::string> overrides;
  add_config_options(app, path, overrides);
  app.parse("--set a.b=1 run.yaml --set c=[1,2] --threads 3 --kernels reference --dtype bf16 --device cuda");
  EXPECT_EQ(path, "run.yaml");
  EXPECT_THAT(overrides, ::testing::UnorderedElementsAre("a.b=1", "c=[1,2]", "threads=3", "kernels=reference",
                                                         "dtype=bf16", "device=cuda"));
}

TEST(Options, AreParsedIntoTheirTargets) {
  CLI::App app;
  config::Compute compute;
  std::int64_t seq_len = 512, batch_size = 8;
  DataOptions data;
  add_compute_options(app, compute);
  add_seq_len_option(app, seq_len);
  add_batch_size_option(app, batch_size);
  add_data_options(app, data);
  app.parse(
      "--dtype bf16 --device cuda --seq-len 64 --batch-size 2 --threads 3 --kernels reference "
      "--data x.txt y=z.txt --data w --text-field body --txt-record line --on-bad-record skip");
  EXPECT_EQ(compute.dtype, config::DTypeChoice::kBf16);
  EXPECT_EQ(compute.device, config::Device::kCuda);
  EXPECT_EQ(seq_len, 64);
  EXPECT_EQ(batch_size, 2);
  EXPECT_EQ(compute.threads, 3);
  EXPECT_EQ(compute.kernels, nn::Kernels::kReference);
  const std::vector<TextSource> result = sources(data);
  ASSERT_EQ(result.size(), 3u);
  EXPECT_EQ(result[1].name, "y");
  EXPECT_EQ(result[2].text_field, "body");
  EXPECT_EQ(result[2].txt_record, data::TxtRecord::kLine);
  EXPECT_EQ(result[2].on_bad_record, data::BadRecord::kSkip);
}

TEST(Options, TrainOnAnswersNeedsMessages) {
  const auto sources_of = [](const std::string& words) {
    CLI::App app;
    DataOptions data;
    add_data_options(app, data);
    app.parse("--data x.jsonl " + words);
    return sources(data);
  };
  EXPECT_EQ(sources_of("--messages-field m")[0].train_on, data::TrainOn::kAll);
  EXPECT_EQ(sources_of("--messages-field m --train-on assistant")[0].train_on, data::TrainOn::kAssistant);
  EXPECT_THROW(sources_of("--messages-field m --train-on user"), CLI::ValidationError);
  try {
    sources_of("--train-on assistant");
    ADD_FAILURE() << "nothing was thrown";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("--train-on: found assistant without messages_field"));
  }
}

TEST(Options, RefuseWrongValues) {
  const auto error_of_dtype = [](const std::string& word) -> std::string {
    CLI::App app;
    config::Compute compute;
    add_compute_options(app, compute);
    try {
      app.parse("--dtype " + word);
    } catch (const CLI::ParseError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of_dtype("fp16"), "--dtype: found \"fp16\"; expected auto, fp32 or bf16");
}

config::Compute init_compute(config::Compute compute) {
  run::init_compute(compute);
  return compute;
}

TEST(InitCompute, ZeroThreadsMeansTheCoresAvailable) {
  init_compute({.threads = 1});
  EXPECT_EQ(at::get_num_threads(), 1);
  init_compute({});
  EXPECT_EQ(at::get_num_threads(), available_cores());
}

TEST(InitCompute, WarnsOfMoreThreadsThanCores) {
  const int cores = available_cores();
  const auto told = [](int threads) {
    const test::CapturedLog log;
    init_compute({.dtype = config::DTypeChoice::kFp32, .threads = threads});
    return log.text();
  };
  EXPECT_THAT(told(cores + 1),
              ::testing::HasSubstr(
                  fmt::format("threads: {} is more than the {} cores that this process may use", cores + 1, cores)));
  EXPECT_EQ(told(cores), "");
  init_compute({});
}

TEST(InitCompute, DecidesTheDtypeAutoByWhatMultipliesBf16AndSaysIt) {
  const test::CapturedLog log;
  const config::DTypeChoice expected =
      kernels::multiplies_bf16() ? config::DTypeChoice::kBf16 : config::DTypeChoice::kFp32;
  EXPECT_EQ(init_compute({}).dtype, expected);
  EXPECT_THAT(log.text(),
              ::testing::HasSubstr(fmt::format("dtype: {} (auto: this processor", config::to_string(expected))));
}

TEST(InitCompute, KeepsADtypeThatWasGivenAndSaysNothing) {
  for (const config::DTypeChoice dtype : {config::DTypeChoice::kFp32, config::DTypeChoice::kBf16}) {
    const test::CapturedLog log;
    EXPECT_EQ(init_compute({.dtype = dtype}).dtype, dtype);
    EXPECT_THAT(log.text(), ::testing::Not(::testing::HasSubstr("auto")));
  }
}

}  // namespace
}  // namespace adept::cli
