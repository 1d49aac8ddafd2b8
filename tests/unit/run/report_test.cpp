#include "adept/run/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace adept::run {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

config::RunConfig config_with_two_sets() {
  config::RunConfig config;
  config.data.eval.resize(2);
  config.data.eval[0].name = "terms";
  config.data.eval[0].role = config::EvalRole::kDomain;
  config.data.eval[1].name = "wiki";
  config.data.eval[1].role = config::EvalRole::kGeneral;
  return config;
}

RunResults results_by_hand() {
  return {
      .before =
          {{"terms",
            {.metrics = {{"loss", 3.0}, {"perplexity", 20.0}, {"bits_per_byte", 1.1}}, .tokens = 10, .documents = 2}},
           {"wiki",
            {.metrics = {{"loss", 2.5}, {"perplexity", 12.0}, {"bits_per_byte", 0.9}}, .tokens = 10, .documents = 2}}},
      .after =
          {{"terms",
            {.metrics = {{"loss", 2.25}, {"perplexity", 9.5}, {"bits_per_byte", 0.8}}, .tokens = 10, .documents = 2}},
           {"wiki",
            {.metrics = {{"loss", 2.5125}, {"perplexity", 12.03}, {"bits_per_byte", 0.91}},
             .tokens = 10,
             .documents = 2}}},
      .training = {{"train_steps", 1500},
                   {"train_loss", 2.125},
                   {"train_tokens", 1234567},
                   {"train_sources",
                    {{"terms", {{"sequences", 2390}, {"tokens", 1222222}, {"epochs", 1.5}}},
                     {"wiki", {{"sequences", 25}, {"tokens", 12345}, {"epochs", 0.0249}}}}},
                   {"train_tokens_per_second", 987.6},
                   {"speed_of_light", 0.614},
                   {"trained_parameters", 14000000},
                   {"all_parameters", 148000000},
                   {"nonfinite_steps", 0}}};
}

const std::vector<StageRecord> kStages = {
    {.name = "tokenize", .inputs = {}, .seconds = 5, .peak_rss_bytes = 1'000'000'000},
    {.name = "probe",
     .inputs = {},
     .seconds = 61,
     .peak_rss_bytes = 2'500'000'000,
     .memory = {{"total", 8}},
     .skipped = true},
    {.name = "train", .inputs = {}, .seconds = 3600, .peak_rss_bytes = 2'000'000'000}};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(ResultsTable, ShowsLossAndPerplexityBeforeAndAfterWithTheChange) {
  const std::string table = results_table(config_with_two_sets(), results_by_hand(), kStages);
  EXPECT_THAT(table,
              HasSubstr("terms (domain)                 3.0000   2.2500   -0.7500    20.000     9.500   -52.50 %"));
  EXPECT_THAT(table,
              HasSubstr("wiki (general)                 2.5000   2.5125   +0.0125    12.000    12.030    +0.25 %"));
}

TEST(ResultsTable, ShowsWhatWasTrainedAndWhatItCost) {
  const std::string table = results_table(config_with_two_sets(), results_by_hand(), kStages);
  EXPECT_THAT(table, HasSubstr("14,000,000 of 148,000,000 parameters (9.5 %)"));
  EXPECT_THAT(table, HasSubstr("1,500 steps, 1,234,567 tokens, 987 tokens/s (61 % SOL)"));
  EXPECT_THAT(table, HasSubstr("\n  trained on    terms: 1,222,222 tokens in 2,390 sequences, 1.50 epochs\n"
                               "                wiki: 12,345 tokens in 25 sequences, 0.02 epochs\n"));
  EXPECT_THAT(table, HasSubstr("tokenize 0:05, probe 1:01 (kept), train 1:00:00, total 1:01:06"));
  EXPECT_THAT(table, HasSubstr("peak memory   2.5 GB"));
  EXPECT_THAT(table, Not(HasSubstr("skipped")));
}

TEST(ResultsTable, SaysHowMuchOfEachSetWasMeasured) {
  RunResults results = results_by_hand();
  results.after.at("terms").text = {
      .tokens = 65536, .all_tokens = 812345, .documents = 131, .all_documents = 5321, .is_sample = true};
  results.after.at("wiki").text = {.tokens = 900, .all_tokens = 900, .documents = 4, .all_documents = 4};
  EXPECT_THAT(results_table(config_with_two_sets(), results, kStages),
              HasSubstr("\n  measured on   terms: 65,536 of 812,345 tokens in 131 of 5,321 documents\n"
                        "                wiki: all 900 tokens in 4 documents\n"));
  EXPECT_EQ(results_json(config_with_two_sets(), results, kStages)["eval_terms_text"]["all_tokens"], 812345);
}

TEST(ResultsTable, HasColumnsForTheMetricsOfEverySet) {
  RunResults results = results_by_hand();
  results.before.at("wiki").metrics.push_back({.name = "accuracy", .value = 0.25, .higher_is_better = true});
  results.after.at("wiki").metrics.push_back({.name = "accuracy", .value = 0.375, .higher_is_better = true});
  const auto lines = lines_of(results_table(config_with_two_sets(), results, kStages));
  EXPECT_THAT(lines[1], ::testing::EndsWith("accuracy accuracy    change"));
  EXPECT_THAT(lines[3], ::testing::EndsWith("-52.50 %")) << "the other set has none";
  EXPECT_THAT(lines[4], ::testing::EndsWith("  0.2500   0.3750   +0.1250"));
  const Json json = results_json(config_with_two_sets(), results, kStages);
  EXPECT_EQ(json["base_wiki_accuracy"], 0.25);
  EXPECT_EQ(json["eval_wiki_accuracy"], 0.375);
  EXPECT_FALSE(json.contains("eval_terms_accuracy"));
}

TEST(ResultsTable, SaysHowManyUpdatesWereSkipped) {
  RunResults results = results_by_hand();
  results.training["nonfinite_steps"] = 3;
  EXPECT_THAT(results_table(config_with_two_sets(), results, kStages),
              HasSubstr("skipped       3 updates with a non-finite loss or gradient"));
}

TEST(ResultsTable, KeepsItsColumnsWithoutABaseline) {
  RunResults without = results_by_hand();
  without.before.clear();
  const auto with_base = lines_of(results_table(config_with_two_sets(), results_by_hand(), kStages));
  const auto lines = lines_of(results_table(config_with_two_sets(), without, kStages));
  ASSERT_EQ(lines.size(), with_base.size());
  for (const char* value : {"2.2500", "9.500"}) {
    const auto found = lines[3].find(value);
    ASSERT_NE(found, std::string::npos) << lines[3];
    EXPECT_EQ(found, with_base[3].find(value)) << "\n" << with_base[3] << "\n" << lines[3];
  }
  EXPECT_EQ(lines[3].find("3.0000"), std::string::npos);
}

TEST(ResultsJson, HoldsEveryNumberUnderItsName) {
  const Json json = results_json(config_with_two_sets(), results_by_hand(), kStages);
  EXPECT_EQ(json["train_loss"], 2.125);
  EXPECT_EQ(json["train_steps"], 1500);
  EXPECT_EQ(json["base_terms_loss"], 3.0);
  EXPECT_EQ(json["base_terms_perplexity"], 20.0);
  EXPECT_EQ(json["eval_terms_loss"], 2.25);
  EXPECT_EQ(json["eval_terms_perplexity"], 9.5);
  EXPECT_EQ(json["eval_terms_bits_per_byte"], 0.8);
  EXPECT_EQ(json["eval_wiki_loss"], 2.5125);
  EXPECT_EQ(json["seconds_probe"], 61.0);
  EXPECT_EQ(json["seconds_train"], 3600.0);
  EXPECT_EQ(json["memory_bytes_probe"]["total"], 8);
  EXPECT_FALSE(json.contains("memory_bytes_tokenize"));
  EXPECT_EQ(json["peak_rss_bytes"], 2'500'000'000);
}

TEST(ResultsJson, HoldsNoBaselineWhereThereIsNone) {
  RunResults results = results_by_hand();
  results.before.clear();
  const Json json = results_json(config_with_two_sets(), results, kStages);
  EXPECT_FALSE(json.contains("base_terms_loss"));
  EXPECT_EQ(json["eval_wiki_perplexity"], 12.03);
}

}  // namespace
}  // namespace adept::run
