#include "adept/method/selection.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "adept/method/beyond/cost_aware_selection.h"
#include "adept/method/importance.h"
#include "adept/model/weights.h"
#include "tests/support/reads.h"
#include "tests/support/tiny_models.h"

namespace adept::method {
namespace {

using test::Reads;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

Importance scored(const std::vector<double>& scores, double standard_error = 0) {
  Importance importance;
  for (const double score : scores)
    importance.layers.push_back({.index = static_cast<int>(importance.layers.size()), .score = score});
  importance.stability = {.num_lowest = 1,
                          .num_resamples = 1000,
                          .same_set_share = 1,
                          .degrees_of_freedom = 1000,  // Student's t is 1.962
                          .covariance = std::vector(scores.size(), std::vector<double>(scores.size()))};
  for (std::size_t l = 0; l < scores.size(); ++l)
    importance.stability.covariance[l][l] = standard_error * standard_error;
  return importance;
}

std::vector<int> select(const Importance& importance, const SelectionOptions& options,
                        const CopiesCost& step_cost = {}) {
  return select_layers(options, static_cast<int>(importance.layers.size()), importance, step_cost);
}

TEST(SelectLowest, TakesTheLeastImportantLayersAscendingByIndex) {
  const Importance importance = scored({0.9, 0.1, 0.5, -0.2, 0.3});
  EXPECT_THAT(select(importance, {.num_layers = 1}), ElementsAre(3));
  EXPECT_THAT(select(importance, {.num_layers = 3}), ElementsAre(1, 3, 4));
  EXPECT_THAT(select(importance, {.num_layers = 5}), ElementsAre(0, 1, 2, 3, 4));
}

TEST(SelectLowest, TakesTheLaterOfEqualLayers) {
  const Importance importance = scored({0.5, 0.1, 0.5, 0.1, 0.1});
  EXPECT_THAT(select(importance, {.num_layers = 1}), ElementsAre(4));
  EXPECT_THAT(select(importance, {.num_layers = 2}), ElementsAre(3, 4));
  EXPECT_THAT(select(importance, {.num_layers = 4}), ElementsAre(1, 2, 3, 4));
}

TEST(SelectHighest, IsForAblation) {
  const Importance importance = scored({0.9, 0.1, 0.5, -0.2, 0.9});
  EXPECT_THAT(select(importance, {.strategy = "highest", .num_layers = 3}), ElementsAre(0, 2, 4));
  EXPECT_THAT(select(importance, {.strategy = "highest", .num_layers = 1}), ElementsAre(4));
}

TEST(SelectLayers, ExcludesAndRepeats) {
  const Importance importance = scored({0.9, 0.1, 0.5, -0.2, 0.3});
  EXPECT_THAT(select(importance, {.num_layers = 2, .exclude = {3, 1}}), ElementsAre(2, 4));
  EXPECT_THAT(select(importance, {.num_layers = 2, .copies = 3}), ElementsAre(1, 1, 1, 3, 3, 3));
  EXPECT_THAT(select(importance, {.strategy = "uniform", .num_layers = 2, .exclude = {4}}), ElementsAre(1, 3));
}

TEST(SelectUniform, TakesTheLastLayerOfEachGroup) {
  const auto after = [](int depth, int k) {
    return select_layers({.strategy = "uniform", .num_layers = k}, depth, std::nullopt);
  };
  EXPECT_THAT(after(32, 8), ElementsAre(3, 7, 11, 15, 19, 23, 27, 31));  // LLaMA-Pro's own
  EXPECT_THAT(after(30, 4), ElementsAre(6, 14, 21, 29));
  EXPECT_THAT(after(5, 5), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(after(5, 1), ElementsAre(4));
}

TEST(SelectCostAware, TakesTheHighestOfThoseThatCannotBeToldApart) {
  // Differences of 0.04 and less are within 1.96 * sqrt(2) * 0.0145 = 0.0402. The second lowest is layer 1.
  const Importance importance = scored({0.0, 0.20, 0.9, 0.21, 0.24, 0.25, 0.8}, 0.0145);
  const auto cost_aware = [&](int k) { return select(importance, {.strategy = "cost_aware", .num_layers = k}); };
  EXPECT_THAT(cost_aware(1), ElementsAre(0)) << "nothing is like it";
  EXPECT_THAT(cost_aware(2), ElementsAre(0, 4)) << "0 is surely lower; 1, 3 and 4 are alike, 5 is not like 1";
  EXPECT_THAT(cost_aware(3), ElementsAre(0, 4, 5)) << "the third lowest is 3, and 5 is like it";
  EXPECT_THAT(cost_aware(5), ElementsAre(0, 1, 3, 4, 5));
  EXPECT_THAT(select(importance, {.num_layers = 2}), ElementsAre(0, 1));
  const Importance certain = scored({0.3, 0.1, 0.2, 0.4});
  EXPECT_THAT(select(certain, {.strategy = "cost_aware", .num_layers = 2}), ElementsAre(1, 2))
      << "without doubt it is lowest";
}

TEST(SelectByImprovement, TakesTheBestSetForItsCostAndKnowsItsScores) {
  Importance improvement = scored({10, 1, 2, 9, 3});
  improvement.method = "gain";
  const SelectionOptions options = {.strategy = "gain_per_cost", .num_layers = 2};
  EXPECT_THAT(select(improvement, options, [](std::span<const int>) { return 1.0; }), ElementsAre(0, 3))
      << "where all cost the same, the largest improvements";
  EXPECT_THAT(select(improvement, options, [](std::span<const int> after) { return 5.0 - after.front(); }),
              ElementsAre(3, 4))
      << "12 / 2 against 19 / 5";
  Importance other = scored({1, 2, 3});
  other.method = "fisher";
  EXPECT_THAT(test::message_of<ConfigError>([&] { select(other, options); }),
              Reads("expand.strategy: ...gain_per_cost...--method gain...found fisher."));
  for (const auto strategy : {"lowest", "cost_aware"})
    EXPECT_THAT(test::message_of<ConfigError>([&] { select(improvement, {.strategy = strategy, .num_layers = 1}); }),
                Reads("layers to expand: found ...method gain,...expected ...highest or gain_per_cost."));
}

TEST(SelectionStrategies, AreATableWhoseFirstRowIsTheDefault) {
  EXPECT_EQ(selection_strategies().front(), kLowestLayers);
  EXPECT_THAT(selection_strategies(ScoreUse::kLowest), IsSupersetOf({"lowest", "cost_aware"}));
  EXPECT_THAT(selection_strategies(ScoreUse::kHighest), IsSupersetOf({"highest", "gain_per_cost"}));
  EXPECT_THAT(selection_strategies(ScoreUse::kNone), IsSupersetOf({kUniformLayers, kManualLayers}));
  for (const SelectionStrategy& strategy : all_selection_strategies()) {
    EXPECT_THAT(selection_strategy_meanings("\n"), HasSubstr(fmt::format("{}: {}", strategy.name, strategy.meaning)));
    if (strategy.importance_method.empty()) continue;
    EXPECT_NE(find_importance_method(strategy.importance_method), nullptr) << strategy.name;
    EXPECT_EQ(strategy_for(strategy.importance_method), &strategy);
  }
  EXPECT_EQ(strategy_for("mask_out"), nullptr);
  EXPECT_THROW(selection_strategy("best"), InternalError);
}

TEST(AreApart, TakesTheCovarianceIntoAccount) {
  Importance importance = scored({0.1, 0.2}, 0.1);
  EXPECT_FALSE(are_apart(importance, 0, 1));
  // Two scores that rise and fall together: the variance of the difference is 2 (0.01 - 0.0099).
  importance.stability.covariance[0][1] = importance.stability.covariance[1][0] = 0.0099;
  EXPECT_TRUE(are_apart(importance, 0, 1));
}

TEST(SelectLayers, NamesWhatIsWrong) {
  const Importance importance = scored({0.9, 0.1, 0.5});
  const auto refusal = [](const std::optional<Importance>& scores, const SelectionOptions& options) {
    return test::message_of<ConfigError>([&] { select_layers(options, 3, scores); });
  };
  for (const int k : {-1, 0, 4})
    EXPECT_THAT(refusal(importance, {.num_layers = k}),
                HasSubstr("number of layers to expand: found " + std::to_string(k) + "; expected 1 to 3"));
  EXPECT_THAT(refusal(importance, {.num_layers = 3, .exclude = {1}}),
              Reads("number of layers to expand: found 3; expected 1 to 2 ...excluded..."));
  EXPECT_THAT(refusal(importance, {.num_layers = 1, .exclude = {3}}),
              HasSubstr("layers to exclude: found 3; expected indices from 0 to 2"));
  EXPECT_THAT(refusal(std::nullopt, {.num_layers = 1}), HasSubstr("found no importance scores"));
  EXPECT_THAT(refusal(scored({1, 2}), {.num_layers = 1}),
              HasSubstr("found importance scores of 2 layers, but the model has 3"));
  Importance blind = importance;
  blind.stability = {};
  EXPECT_THAT(refusal(blind, {.strategy = "cost_aware", .num_layers = 1}),
              HasSubstr("cost_aware requires scores with confidence intervals"));
}

TEST(Budget, GivesTheMostLayersWhoseShareFits) {
  const model::ModelConfig base = model::parse_model_config(test::config_of_kind("llama"), "config.json");
  const auto share = [&](int k) {
    const model::ModelConfig deeper = model::parse_model_config(test::config_of_kind("llama", 4 + k), "config.json");
    const auto all = static_cast<double>(model::num_parameters(deeper));
    return (all - static_cast<double>(model::num_parameters(base))) / all;
  };
  for (int k = 1; k <= 4; ++k) {
    EXPECT_EQ(num_layers_for_budget(base, share(k) + 1e-9, 1, 0), k);
  }
  EXPECT_EQ(num_layers_for_budget(base, share(3) - 1e-6, 1, 0), 2);
  EXPECT_EQ(num_layers_for_budget(base, 0.99, 1, 0), 4) << "no more than there are";
  EXPECT_EQ(num_layers_for_budget(base, 0.99, 1, 1), 3) << "less the excluded ones";
  EXPECT_EQ(num_layers_for_budget(base, share(4) + 1e-9, 2, 0), 2) << "two copies each";
  EXPECT_THAT(test::message_of<ConfigError>([&] { num_layers_for_budget(base, share(1) / 2, 1, 0); }),
              HasSubstr("the share of one layer of this model copied once"));
}

}  // namespace
}  // namespace adept::method
