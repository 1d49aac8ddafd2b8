// importance.json: what is written is read back, and what is wrong in it is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adept/core/error.h"
#include "adept/io/record.h"
#include "tests/support/reads.h"
#include "tests/unit/method/importance_util.h"

namespace adept::method {
namespace {

using test::Says;
using ::testing::HasSubstr;

TEST(NormalizeAndRank, MapsTheRangeToZeroToOneAndRanksTiesByIndex) {
  auto layers = layers_with_scores({0.3, -0.1, 0.3, 0.1});
  normalize_and_rank(layers);
  const std::vector<double> normalized = {1, 0, 1, 0.5};
  const std::vector<int> ranks = {1, 4, 2, 3};
  for (std::size_t l = 0; l < 4; ++l) {
    EXPECT_DOUBLE_EQ(layers[l].normalized, normalized[l]) << l;
    EXPECT_EQ(layers[l].rank, ranks[l]) << l;
  }
}

TEST(NormalizeAndRank, GivesZeroWhereAllScoresAreEqual) {
  auto layers = layers_with_scores({0.25, 0.25, 0.25});
  normalize_and_rank(layers);
  for (std::size_t l = 0; l < 3; ++l) {
    EXPECT_EQ(layers[l].normalized, 0);
    EXPECT_EQ(layers[l].rank, static_cast<int>(l) + 1);
  }
}

TEST(NormalizeAndRank, RefusesScoresThatAreNotFinite) {
  for (const double bad : {std::nan(""), kInfinity, -kInfinity}) {
    auto layers = layers_with_scores({0.1, bad, 0.2});
    EXPECT_THAT(test::message_of<NonFiniteError>([&] { normalize_and_rank(layers); }),
                HasSubstr("importance of layer 1"));
  }
}

Importance hand_made() {
  Importance importance{.method = "mask_out",
                        .model = {{.weights = "xxh3:0123", .config = "xxh3:4567", .tokenizer = "xxh3:89ab"}},
                        .baseline_loss = 2.0 / 3.0,
                        .tokens = 1234567890123,
                        .sequences = 17,
                        .layers = layers_with_scores({0.1 + 0.2, -1e-17, 5e300}),
                        .stability = {},
                        .separation = {}};
  importance.layers[0].ci95 = {-0.1, 0.7};
  importance.layers[1].ci95 = {-kInfinity, kInfinity};
  importance.layers[2].ci95 = {4e300, 6e300};
  normalize_and_rank(importance.layers);
  return importance;
}

TEST(ImportanceJson, SurvivesTheRoundTripThroughTextWithInfiniteIntervals) {
  const Importance importance = hand_made();
  const std::string text = to_json(importance).dump(2);
  EXPECT_THAT(text, HasSubstr("null"));
  expect_equal(importance_from_json(parse_json(text, "text"), "text"), importance);
  const test::TemporaryDirectory dir;
  test::write_file(dir / "importance.json", text);
  expect_equal(read_importance(dir / "importance.json"), importance);
}

TEST(ImportanceJson, KeepsStabilityAndSeparation) {
  Importance importance = hand_made();
  importance.stability = {.num_lowest = 2,
                          .num_resamples = 1000,
                          .same_set_share = 0.875,
                          .degrees_of_freedom = 15,
                          .covariance = {{1, 0.5, 0}, {0.5, 2, -0.25}, {0, -0.25, 3e-9}}};
  importance.separation = Separation{.reached = true, .required_share = 0.99, .looks = 3};
  importance.layers[1].lowest_share = 0.125;
  expect_equal(importance_from_json(parse_json(to_json(importance).dump(2), "text"), "text"), importance);
  Json json = to_json(importance);
  json["stability"]["covariance"].erase(0);
  EXPECT_THAT(test::message_of<DataError>([&] { importance_from_json(json, "x"); }),
              Says("stability.covariance...expected ...3 layers"));
}

TEST(ImportanceJson, RefusesWhatNoProbeWrites) {
  Importance importance = hand_made();
  importance.stability = {
      .num_lowest = 2, .num_resamples = 1000, .same_set_share = 0.875, .degrees_of_freedom = 15, .covariance = {}};
  const auto refusal = [&](const char* pointer, const Json& value) {
    Json json = to_json(importance);
    json[Json::json_pointer(pointer)] = value;
    return test::message_of<DataError>([&] { importance_from_json(json, "scores.json"); });
  };
  EXPECT_THAT(refusal("/stability/degrees_of_freedom", 0),
              HasSubstr("stability.degrees_of_freedom is 0; expected at least 1"));
  EXPECT_THAT(refusal("/stability/num_lowest", 4), HasSubstr("stability.num_lowest is 4; expected 1 to 3"));
  EXPECT_THAT(refusal("/stability/resamples", 0), HasSubstr("stability.resamples is 0; expected at least 1"));
  EXPECT_THAT(refusal("/stability/same_set_share", 1.5), HasSubstr("stability.same_set_share is 1.5; expected 0 to 1"));
  EXPECT_THAT(refusal("/layers/1/lowest_share", -0.5), HasSubstr("layers[1].lowest_share is -0.5; expected 0 to 1"));
}

TEST(ImportanceFile, ThatWasDamagedOrEditedSaysSoAndWithoutAChecksumIsTakenAsItIs) {
  const test::TemporaryDirectory dir;
  const std::filesystem::path path = dir / "importance.json";
  const Importance importance = hand_made();
  io::write_record(path, to_json(importance));
  expect_equal(read_importance(path), importance);
  const std::string good = test::read_file(path);
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i * 5 % 8)));
    test::write_file(path, bad);
    try {
      expect_equal(read_importance(path), importance);  // the same content, such as 1E-17 for 1e-17
    } catch (const DataError& error) {
      ASSERT_THAT(error.what(), HasSubstr("importance.json")) << bad;
    }
  }
  Json edited = parse_json(good, "good");
  edited["layers"][1]["score"] = 0.5;
  test::write_file(path, edited.dump());
  EXPECT_THAT(test::message_of<DataError>([&] { read_importance(path); }),
              Says("importance.json: ...edited...checksum"));
  edited.erase("checksum");
  test::write_file(path, edited.dump());
  EXPECT_EQ(read_importance(path).layers[1].score, 0.5);
}

TEST(ImportanceJson, HoldsSeveralMethodsOfWhichOneIsAskedFor) {
  std::vector<Importance> both = {hand_made(), hand_made()};
  both[1].method = "fisher";
  both[1].layers[0].score = 7;
  normalize_and_rank(both[1].layers);
  const Json json = parse_json(to_json(both).dump(), "text");
  expect_equal(importance_from_json(json, "x"), both[0]);
  expect_equal(importance_from_json(json, "x", "mask_out"), both[0]);
  expect_equal(importance_from_json(json, "x", "fisher"), both[1]);
  EXPECT_THAT(test::message_of<ConfigError>([&] { importance_from_json(json, "x.json", "cumulative"); }),
              Says("x.json: found no scores of cumulative; expected ...mask_out, fisher"));
}

TEST(ImportanceJson, HasTheFieldsOfTheContract) {
  const Json json = to_json(hand_made());
  for (const char* key : {"method", "baseline_loss", "tokens", "sequences", "layers"}) EXPECT_TRUE(json.contains(key));
  for (const char* key : {"index", "score", "normalized", "rank", "ci95"}) EXPECT_TRUE(json["layers"][1].contains(key));
  EXPECT_EQ(json["layers"][0]["ci95"], Json::parse("[-0.1, 0.7]"));
}

TEST(ImportanceJson, NamesTheFieldThatIsWrong) {
  const auto refusal = [](const char* pointer, const Json& value) {
    Json json = to_json(hand_made());
    json[Json::json_pointer(pointer)] = value;
    return test::message_of<DataError>([&] { importance_from_json(json, "scores.json"); });
  };
  EXPECT_THAT(refusal("/method", 3), Says("scores.json: ...method is 3; expected a string"));
  EXPECT_THAT(refusal("/baseline_loss", nullptr), HasSubstr("baseline_loss is null; expected a number"));
  EXPECT_THAT(refusal("/tokens", 1.5), HasSubstr("tokens is 1.5; expected an integer"));
  EXPECT_THAT(refusal("/sequences", 18446744073709551615U), HasSubstr("sequences is 18446744073709551615"));
  EXPECT_THAT(refusal("/model", 1), HasSubstr("model.weights is missing"));
  EXPECT_THAT(refusal("/model/config.json", 1), HasSubstr("model.config.json is number; expected a string"));
  EXPECT_THAT(refusal("/tokens", 0), HasSubstr("tokens is 0; expected at least 1"));
  EXPECT_THAT(refusal("/layers/0/ci95", {2, 1}), HasSubstr("layers[0].ci95 is [2,1]; expected ascending bounds"));
  EXPECT_THAT(refusal("/layers", "all"), HasSubstr("layers is \"all\"; expected a list"));
  EXPECT_THAT(refusal("/layers/2", 1), HasSubstr("layers[2].index is missing"));
  EXPECT_THAT(refusal("/layers/1/score", nullptr), HasSubstr("layers[1].score is null; expected a number"));
  EXPECT_THAT(refusal("/layers/1/index", 4294967297), HasSubstr("layers[1].index is 4294967297; expected an integer"));
  EXPECT_THAT(refusal("/layers/1/ci95", 0.5), HasSubstr("layers[1].ci95 is 0.5; expected a list of two numbers"));
  EXPECT_THAT(refusal("/layers/1/ci95/0", "low"),
              test::Reads("scores.json: ...layers[1].ci95 ... \"low\"; expected numbers or null..."));
  EXPECT_THAT(refusal("/layers", Json::array()), HasSubstr("scores.json: contains no layers"));
  EXPECT_THAT(refusal("/layers/1/index", 2), Says("scores.json: entry 1 of layers has index 2; expected "));
  for (const char* key : {"method", "baseline_loss", "tokens", "sequences", "layers"}) {
    Json json = to_json(hand_made());
    json.erase(key);
    EXPECT_THAT(test::message_of<DataError>([&] { importance_from_json(json, "x"); }),
                HasSubstr(std::string(key) + " is missing"));
  }
  EXPECT_THAT(test::message_of<DataError>([] { importance_from_json(Json::array(), "x"); }),
              HasSubstr("method is missing"));
}

}  // namespace
}  // namespace adept::method
