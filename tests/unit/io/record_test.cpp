#include "adept/io/record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "tests/support/reads.h"
#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

using adept::test::Reads;

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RecordFile : public ::testing::Test {
 protected:
  std::filesystem::path path() const { return directory_ / "record.json"; }
  std::string refusal(NoChecksum no_checksum = NoChecksum::kDamaged) const {
    return test::data_error([&] { read_record(path(), no_checksum); });
  }
  test::TemporaryDirectory directory_;
};

const Json kContent = {
    {"name", "\u00e9\n"}, {"numbers", {0.1 + 0.2, -0.0, 5e-324, 1e308, 1LL << 62}}, {"none", nullptr}};

TEST_F(RecordFile, IsReadAsItWasWritten) {
  write_record(path(), kContent);
  EXPECT_EQ(read_record(path()).dump(), kContent.dump());
  EXPECT_EQ(read_record(path(), NoChecksum::kAccepted).dump(), kContent.dump());
  EXPECT_EQ(read_json(path()).back(), read_json(path())["checksum"]) << "the last field";
}

TEST_F(RecordFile, HoldsNumbersThatAreNotFiniteAsNull) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  write_record(path(), {{"inf", infinity}, {"nan", std::nan("")}, {"one", 1.5}});
  const Json record = read_record(path());
  EXPECT_TRUE(record["inf"].is_null() && record["nan"].is_null());
  EXPECT_EQ(number_or(record, "inf", infinity), infinity);
  EXPECT_EQ(number_or(record, "one", infinity), 1.5);
  EXPECT_EQ(test::data_error([&] { number_or(record, "two", 0); }), "two is missing");
  EXPECT_EQ(test::data_error([&] { number_or({{"two", "2"}}, "two", 0); }), "two is string; expected a number or null");
}

TEST_F(RecordFile, WithABitFlippedIsDamagedOrHoldsTheSame) {
  write_record(path(), kContent);
  const std::string good = test::read(path());
  for (std::size_t i = 0; i < good.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      test::write(path(), bad);
      try {
        EXPECT_EQ(read_record(path()).dump(), kContent.dump()) << bad;
      } catch (const DataError& error) {
        EXPECT_THAT(error.what(), HasSubstr(path().string())) << bad;
      }
    }
  for (std::size_t size = 0; size + 2 < good.size(); ++size) {
    test::write(path(), good.substr(0, size));
    EXPECT_THAT(refusal(), HasSubstr(path().string())) << size;
  }
}

TEST_F(RecordFile, SaysWhatIsWrong) {
  test::write(path(), "[1]");
  EXPECT_THAT(refusal(), Reads("...record.json: is damaged: ...JSON object..."));
  test::write(path(), R"({"a": 1})");
  EXPECT_THAT(refusal(), Reads("...record.json: is damaged: ...no checksum..."));
  EXPECT_EQ(read_record(path(), NoChecksum::kAccepted)["a"], 1);
  test::write(path(), R"({"a": 1, "checksum": "xxh3:0"})");
  EXPECT_THAT(refusal(), HasSubstr("record.json: is damaged: its content does not match its checksum."));
  EXPECT_THAT(refusal(NoChecksum::kAccepted), HasSubstr("record.json: is damaged or was edited: its content"));
}

TEST(Differences, AreNamedAsInAConfiguration) {
  const Json before = {{"seed", 1}, {"train", {{"rate", 0.5}, {"old", true}}}};
  const Json now = {{"seed", 1}, {"train", {{"rate", 0.25}, {"new", {1}}}}};
  EXPECT_THAT(differences(before, now), ElementsAre("train.rate: was 0.5, now 0.25", "train.new.0: was absent, now 1",
                                                    "train.old: was true, now absent"));
  EXPECT_TRUE(differences(before, before).empty());
  const std::string hash = hash_of("a"), other = hash_of("b");
  EXPECT_THAT(differences({{"model", {{"weights", hash}}}}, {{"model", {{"weights", other}}}}),
              ElementsAre("model.weights: has changed"));
  EXPECT_TRUE(differences({{"weights", hash}}, {{"weights", hash}}).empty());
}

}  // namespace
}  // namespace adept::io
