#include "adept/io/weight_files.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <thread>

#include "adept/core/hash_detail.h"
#include "tests/support/reads.h"
#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

using adept::test::Says;
using nlohmann::json;
using test::data_error;
using test::make_tensor;
using test::names_in;
using test::OwnedTensor;
using test::TemporaryDirectory;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using Names = std::set<std::string>;

constexpr char kIndex[] = "model.safetensors.index.json";

void overwrite_last_byte(const std::filesystem::path& path, char byte) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put(byte);
}

// Four tensors of 24, 10, 8 and 40 bytes.
class WeightFilesTest : public testing::Test {
 protected:
  WeightFilesTest() {
    owned_.push_back(make_tensor("layers.0.w", DType::kF32, {2, 3}, 1));
    owned_.push_back(make_tensor("embed", DType::kBF16, {5}, 2));
    owned_.push_back(make_tensor("norm", DType::kI64, {}, 3));
    owned_.push_back(make_tensor("layers.1.w", DType::kF32, {10}, 4));
    for (const OwnedTensor& tensor : owned_) views_.push_back(tensor.view);
  }

  // Three files: the first two tensors, norm, layers.1.w.
  void write_shards() { write_weight_files(directory_.path(), views_, 40); }

  json index() const { return json::parse(test::read(directory_ / kIndex)); }
  void write_index(const json& value) { test::write(directory_ / kIndex, value.dump()); }
  std::string open_error() const {
    return data_error([&] { WeightFiles::open(directory_.path()); });
  }

  void expect_all_tensors(const WeightFiles& weights) const {
    EXPECT_THAT(weights.names(), ElementsAre("embed", "layers.0.w", "layers.1.w", "norm"));
    EXPECT_EQ(weights.total_bytes(), 82);
    for (const OwnedTensor& tensor : owned_) {
      const TensorView& found = weights.at(tensor.view.name);
      EXPECT_EQ(describe(found), describe(tensor.view));
      EXPECT_TRUE(test::same_bytes(found.data, tensor.bytes)) << tensor.view.name;
    }
  }

  const TemporaryDirectory directory_;
  std::vector<OwnedTensor> owned_;
  std::vector<TensorView> views_;
};

TEST_F(WeightFilesTest, OneFileWhenItFits) {
  write_weight_files(directory_.path(), views_, 82);
  EXPECT_EQ(names_in(directory_.path()), Names{"model.safetensors"});
  expect_all_tensors(WeightFiles::open(directory_.path()));
}

TEST_F(WeightFilesTest, ShardsWithAnIndexWhenItDoesNot) {
  write_shards();
  EXPECT_EQ(names_in(directory_.path()),
            (Names{kIndex, "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                   "model-00003-of-00003.safetensors"}));
  EXPECT_EQ(index(), (json{{"metadata", {{"total_size", 82}}},
                           {"weight_map",
                            {{"layers.0.w", "model-00001-of-00003.safetensors"},
                             {"embed", "model-00001-of-00003.safetensors"},
                             {"norm", "model-00002-of-00003.safetensors"},
                             {"layers.1.w", "model-00003-of-00003.safetensors"}}}}));
  expect_all_tensors(WeightFiles::open(directory_.path()));
}

TEST_F(WeightFilesTest, ATensorAboveTheLimitGetsAFileOfItsOwn) {
  write_weight_files(directory_.path(), views_, 1);
  EXPECT_EQ(names_in(directory_.path()).size(), 5U);
  expect_all_tensors(WeightFiles::open(directory_.path()));
}

TEST_F(WeightFilesTest, TheHashDependsOnTheTensorsAndNotOnTheFiles) {
  write_shards();
  const std::string hash = WeightFiles::open(directory_.path()).hash();
  EXPECT_THAT(hash, testing::MatchesRegex("xxh3:[0-9a-f]{32}"));
  const auto hash_of_tensors = [](std::span<const TensorView> views) {
    const TemporaryDirectory directory;
    write_weight_files(directory.path(), views);
    return WeightFiles::open(directory.path()).hash();
  };
  EXPECT_EQ(hash_of_tensors(views_), hash);
  std::reverse(views_.begin(), views_.end());
  EXPECT_EQ(hash_of_tensors(views_), hash);

  std::vector<std::string> hashes = {hash};
  auto changed = views_;
  changed[0].name = "layers.2.w";
  hashes.push_back(hash_of_tensors(changed));
  changed = views_;
  changed[0].shape = {5, 2};
  hashes.push_back(hash_of_tensors(changed));
  changed = views_;
  changed[0].dtype = DType::kI32;
  hashes.push_back(hash_of_tensors(changed));
  changed = views_;
  changed.pop_back();
  hashes.push_back(hash_of_tensors(changed));
  owned_[0].bytes[23] ^= std::byte{1};
  hashes.push_back(hash_of_tensors(views_));
  std::sort(hashes.begin(), hashes.end());
  EXPECT_EQ(std::adjacent_find(hashes.begin(), hashes.end()), hashes.end());
}

TEST_F(WeightFilesTest, TheHashOfFilesIsComputedOnceAndAgainAfterAChange) {
  write_shards();
  const auto settle = [] { std::this_thread::sleep_for(std::chrono::milliseconds(50)); };
  const auto hash = [&] { return WeightFiles::open(directory_.path()).hash(); };
  settle();
  const std::string first = hash();
  std::int64_t before = adept::detail::hashed_bytes();
  EXPECT_EQ(hash(), first);
  EXPECT_EQ(adept::detail::hashed_bytes(), before) << "the bytes are hashed again";
  const std::filesystem::path shard = WeightFiles::open(directory_.path()).headers().begin()->first;
  const auto time = std::filesystem::last_write_time(shard);
  overwrite_last_byte(shard, '\x55');
  std::filesystem::last_write_time(shard, time);  // as rsync and cp -p do
  settle();
  EXPECT_NE(hash(), first);
  EXPECT_GT(adept::detail::hashed_bytes(), before);
}

TEST_F(WeightFilesTest, TheHashOfFilesThatWereWrittenAMomentAgoIsNotTakenForLasting) {
  write_shards();
  const std::filesystem::path shard = WeightFiles::open(directory_.path()).headers().begin()->first;
  std::set<std::string> hashes;
  for (const char byte : {'a', 'b', 'c', 'd', 'e'}) {  // within a tick of the file system's clock
    overwrite_last_byte(shard, byte);
    hashes.insert(WeightFiles::open(directory_.path()).hash());
  }
  EXPECT_EQ(hashes.size(), 5U);
}

TEST_F(WeightFilesTest, TheOwnerKeepsTheBytesAlive) {
  write_shards();
  std::shared_ptr<const void> owner;
  std::span<const std::byte> data;
  {
    const WeightFiles weights = WeightFiles::open(directory_.path());
    owner = weights.owner("embed");
    data = weights.at("embed").data;
  }
  EXPECT_TRUE(test::same_bytes(data, owned_[1].bytes));
}

// The bytes are asked for one tensor at a time, so that they need not be in memory together.
TEST_F(WeightFilesTest, TensorsCanBeReadWhenTheyAreWritten) {
  std::vector<TensorView> without_data = views_;
  for (TensorView& view : without_data) view.data = {};
  std::vector<std::byte> buffer;
  const auto read = [&](const TensorView& wanted) -> std::span<const std::byte> {
    for (const OwnedTensor& tensor : owned_)
      if (tensor.view.name == wanted.name) buffer = tensor.bytes;
    return buffer;
  };
  for (const std::int64_t max_shard_bytes : {40, 1000}) {
    const TemporaryDirectory directory;
    write_weight_files(directory.path(), without_data, max_shard_bytes, read);
    expect_all_tensors(WeightFiles::open(directory.path()));
  }
  EXPECT_THROW(write_weight_files(directory_.path(), without_data), InternalError);
}

TEST_F(WeightFilesTest, CopiesAndMovesKeepTheirNames) {
  write_shards();
  auto original = std::make_unique<WeightFiles>(WeightFiles::open(directory_.path()));
  const WeightFiles copy = *original;
  const WeightFiles moved = std::move(*original);
  original.reset();
  expect_all_tensors(copy);
  expect_all_tensors(moved);
}

TEST_F(WeightFilesTest, AnAbsentTensorIsNamedWithTheNearest) {
  write_shards();
  const WeightFiles weights = WeightFiles::open(directory_.path());
  EXPECT_EQ(weights.find("layers.0.v"), nullptr);
  EXPECT_THAT(data_error([&] { weights.at("layer.0.w"); }),
              AllOf(HasSubstr(directory_.path().string() + ": has no tensor \"layer.0.w\" among its 4"),
                    HasSubstr("the nearest name is \"layers.0.w\"")));
  EXPECT_THAT(data_error([&] { weights.owner("something.else"); }), Not(HasSubstr("nearest")));
}

TEST_F(WeightFilesTest, EveryDisagreementOfIndexAndShardsIsReportedAtOnce) {
  write_shards();
  std::filesystem::remove(directory_ / "model-00002-of-00003.safetensors");
  std::filesystem::resize_file(directory_ / "model-00003-of-00003.safetensors", 100);
  auto changed = index();
  changed["weight_map"]["lm_head"] = "model-00001-of-00003.safetensors";
  write_index(changed);
  EXPECT_THAT(open_error(), AllOf(HasSubstr((directory_ / kIndex).string() + ": the weights are incomplete"),
                                  Says("  model-00001-of-00003.safetensors: ...not contain tensor \"lm_head\""),
                                  Says("  model-00002-of-00003.safetensors: ...missing...1 tensors"),
                                  HasSubstr("model-00003-of-00003.safetensors: the header's length is given as"),
                                  HasSubstr("\nDownload or copy the model again")));
}

TEST_F(WeightFilesTest, ATensorInAnotherShardThanTheIndexSaysIsReported) {
  write_shards();
  auto changed = index();
  changed["weight_map"]["norm"] = "model-00001-of-00003.safetensors";
  changed["weight_map"]["embed"] = "model-00002-of-00003.safetensors";
  write_index(changed);
  EXPECT_THAT(
      open_error(),
      AllOf(HasSubstr("model-00001-of-00003.safetensors: does not contain tensor \"norm\""),
            Says("model-00001-of-00003.safetensors: tensor \"embed\"...index...model-00002-of-00003.safetensors")));
}

TEST_F(WeightFilesTest, ATensorInTwoShardsIsReported) {
  write_shards();
  write_safetensors(directory_ / "model-00002-of-00003.safetensors", std::vector{views_[2], views_[3]});
  EXPECT_THAT(
      open_error(),
      Says("model-00002-of-00003.safetensors: tensor \"layers.1.w\"...index...model-00003-of-00003.safetensors"));
}

TEST_F(WeightFilesTest, AWrongTotalSizeIsWarnedOfOnceAndAMissingOneIsNot) {
  write_shards();
  auto changed = index();
  changed["metadata"]["total_size"] = 83;
  write_index(changed);
  testing::internal::CaptureStdout();
  expect_all_tensors(WeightFiles::open(directory_.path()));
  EXPECT_THAT(testing::internal::GetCapturedStdout(),
              HasSubstr((directory_ / kIndex).string() + ": metadata.total_size is 83, but the tensors have 82 bytes"));
  testing::internal::CaptureStdout();
  expect_all_tensors(WeightFiles::open(directory_.path()));
  changed.erase("metadata");
  write_index(changed);
  expect_all_tensors(WeightFiles::open(directory_.path()));
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

TEST_F(WeightFilesTest, TensorsThatTheIndexDoesNotListAreUsedAndWarnedOf) {
  write_shards();
  auto changed = index();
  changed["weight_map"].erase("embed");
  write_index(changed);
  testing::internal::CaptureStdout();
  expect_all_tensors(WeightFiles::open(directory_.path()));
  EXPECT_THAT(testing::internal::GetCapturedStdout(),
              Says("not list 1 of the tensors...\"embed\" in model-00001-of-00003.safetensors"));
}

TEST_F(WeightFilesTest, AnUnlistedTensorInTwoShardsIsReported) {
  write_shards();
  write_safetensors(directory_ / "model-00002-of-00003.safetensors", std::vector{views_[2], views_[1]});
  auto changed = index();
  changed["weight_map"].erase("embed");
  write_index(changed);
  EXPECT_THAT(open_error(),
              Says("model-00002-of-00003.safetensors: tensor \"embed\" ...also in model-00001-of-00003.safetensors"));
}

TEST_F(WeightFilesTest, ARenamedTensorHasItsNewNameAndTheHashOfTheFiles) {
  write_shards();
  WeightFiles weights = WeightFiles::open(directory_.path());
  const std::string hash = weights.hash();
  weights.rename("embed", "tokens");
  EXPECT_THAT(weights.names(), ElementsAre("layers.0.w", "layers.1.w", "norm", "tokens"));
  EXPECT_EQ(weights.find("embed"), nullptr);
  EXPECT_EQ(weights.at("tokens").name, "tokens");
  EXPECT_TRUE(test::same_bytes(weights.at("tokens").data, owned_[1].bytes));
  EXPECT_NE(weights.owner("tokens"), nullptr);
  EXPECT_EQ(weights.hash(), hash);
  EXPECT_THROW(weights.rename("tokens", "norm"), InternalError);
}

TEST_F(WeightFilesTest, FileNamesCannotLeaveTheDirectory) {
  write_shards();
  const auto outside = directory_.path().parent_path() / "outside.safetensors";
  for (const std::string& name :
       {std::string("../outside.safetensors"), outside.string(), std::string("a/b.safetensors"), std::string(".."),
        std::string(), std::string("x\0y", 3)}) {
    auto changed = index();
    changed["weight_map"]["norm"] = name;
    write_index(changed);
    EXPECT_THAT(open_error(), HasSubstr("is not a plain file name in this folder")) << name;
    write_index(
        json::parse(R"({"metadata":{"total_size":82},"weight_map":{"layers.0.w":"model-00001-of-00003.safetensors",
      "embed":"model-00001-of-00003.safetensors","norm":"model-00002-of-00003.safetensors",
      "layers.1.w":"model-00003-of-00003.safetensors"}})"));
  }
}

TEST_F(WeightFilesTest, AnIndexOfAnotherFormIsRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "has no object \"weight_map\""},
      {"{}", "has no object \"weight_map\""},
      {R"({"weight_map": []})", "has no object \"weight_map\""},
      {R"({"weight_map": {}})", "does not list any tensor"},
      {R"({"weight_map": {"a": 1, "b": null}})", "tensor \"b\": the file is null; expected a string"},
      {R"({"weight_map": {"a": "x", "a": "y"}})", "the key \"a\" appears twice"},
      {"{", "not valid JSON"}};
  for (const auto& [text, expected] : cases) {
    test::write(directory_ / kIndex, text);
    EXPECT_THAT(open_error(), AllOf(HasSubstr((directory_ / kIndex).string()), HasSubstr(expected))) << text;
  }
}

TEST_F(WeightFilesTest, ManyFaultsAreCutToTheFirst) {
  json map;
  for (int i = 0; i < 30'000; ++i) map[fmt::format("t{:05}", i)] = fmt::format("shard-{:05}.safetensors", i);
  write_index({{"weight_map", map}});
  const std::string message = open_error();
  EXPECT_THAT(message, AllOf(HasSubstr("shard-00019.safetensors: is missing"), HasSubstr("... and 29980 more")));
  EXPECT_LT(message.size(), 3000U);
}

TEST_F(WeightFilesTest, OtherFormatsAreNamedWithTheWayToConvertThem) {
  const std::string where = directory_.path().string();
  EXPECT_THAT(open_error(), AllOf(HasSubstr(where + ": has neither model.safetensors nor"), HasSubstr("repeat it")));
  test::write(directory_ / "pytorch_model.bin", "");
  EXPECT_THAT(open_error(), AllOf(HasSubstr("but pytorch_model.bin, a pickle"), HasSubstr("save_pretrained")));
  test::write(directory_ / "model.Q4.gguf", "");
  EXPECT_THAT(open_error(), HasSubstr("`adept import-gguf --gguf " + where + "/model.Q4.gguf --out DIR`"));
  EXPECT_THAT(data_error([&] { WeightFiles::open(directory_ / "none"); }), HasSubstr("/none: is not a folder"));
}

TEST_F(WeightFilesTest, TheSingleFileIsUsedWhereBothArePresent) {
  write_shards();
  write_safetensors(directory_ / "model.safetensors", std::vector{views_[0]});
  testing::internal::CaptureStdout();
  EXPECT_THAT(WeightFiles::open(directory_.path()).names(), ElementsAre("layers.0.w"));
  EXPECT_THAT(testing::internal::GetCapturedStdout(), HasSubstr("has both model.safetensors and"));
}

TEST_F(WeightFilesTest, AShardThatTheIndexDoesNotNameIsReported) {
  write_shards();
  write_safetensors(directory_ / "model-00004-of-00004.safetensors", std::vector{views_[0]});
  testing::internal::CaptureStdout();
  expect_all_tensors(WeightFiles::open(directory_.path()));
  EXPECT_THAT(testing::internal::GetCapturedStdout(), HasSubstr("model-00004-of-00004.safetensors is not in"));
}

TEST_F(WeightFilesTest, WritingBesideOtherWeightsIsRefused) {
  write_shards();
  EXPECT_THAT(data_error([&] { write_weight_files(directory_.path(), views_); }),
              HasSubstr("already has the weight file"));
  EXPECT_THAT(data_error([&] { write_weight_files(directory_ / "none", views_); }), HasSubstr("/none: cannot list"));
}

// A shard or an index with random damage is read or refused, and nothing else happens.
TEST_F(WeightFilesTest, DamagedIndexesAreReadOrRefused) {
  write_shards();
  const std::string whole = test::read(directory_ / kIndex);
  std::mt19937 random(11);
  int num_read = 0;
  for (int trial = 0; trial < 500; ++trial) {
    std::string changed = whole;
    for (unsigned i = 0; i <= random() % 3; ++i) changed[random() % changed.size()] = static_cast<char>(random());
    test::write(directory_ / kIndex, changed);
    try {
      expect_all_tensors(WeightFiles::open(directory_.path()));
      ++num_read;
    } catch (const DataError& error) {
      ASSERT_THAT(error.what(), HasSubstr(directory_.path().string()));
    }
  }
  EXPECT_LT(num_read, 250);
}

}  // namespace
}  // namespace adept::io
