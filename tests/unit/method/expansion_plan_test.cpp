// Which layers are copied, where the copies go, and what becomes of names and config.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "adept/method/expansion.h"
#include "tests/support/tiny_models.h"

namespace adept::method {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using model::LayerFieldKind;

// All kinds of fields; those of architectures are in their files.
constexpr model::LayerField kFields[] = {{"layer_types", LayerFieldKind::kOnePerLayer},
                                         {"mlp_layer_types", LayerFieldKind::kOnePerLayer},
                                         {"max_window_layers", LayerFieldKind::kThreshold}};

std::vector<ExpandedLayer> copies_after(const std::vector<int>& after, int num_layers) {
  return place_copies(after, num_layers);
}

TEST(PlaceCopies, PutsEachCopyDirectlyBehindItsSource) {
  const auto copies = copies_after({0, 2, 3}, 4);
  ASSERT_EQ(copies.size(), 3U);
  EXPECT_EQ(copies[0].source, 0);
  EXPECT_EQ(copies[0].index, 1);
  EXPECT_EQ(copies[1].source, 2);
  EXPECT_EQ(copies[1].index, 4);
  EXPECT_EQ(copies[2].source, 3);
  EXPECT_EQ(copies[2].index, 6);
  for (const ExpandedLayer& copy : copies) EXPECT_EQ(copy.index, expanded_index(copy.source, copies) + 1);
}

TEST(PlaceCopies, PutsSeveralCopiesOfALayerOneBehindTheOther) {
  const auto copies = copies_after({1, 1, 3}, 4);
  ASSERT_EQ(copies.size(), 3U);
  EXPECT_EQ(copies[0].index, 2);
  EXPECT_EQ(copies[1].index, 3);
  EXPECT_EQ(copies[2].index, 6);
  EXPECT_EQ(copies[1].source, 1);
  EXPECT_EQ(expanded_index(2, copies), 4);
}

TEST(PlaceCopies, RefusesIndicesOutsideTheModelOrOutOfOrder) {
  const auto refusal = [](const std::vector<int>& after) {
    return test::message_of<ConfigError>([&] { place_copies(after, 4); });
  };
  EXPECT_THAT(refusal({}), HasSubstr("layers to expand: found none; expected at least one"));
  EXPECT_THAT(refusal({1, 4}), HasSubstr("found 4; expected indices from 0 to 3 (the model has 4 layers)"));
  EXPECT_THAT(refusal({-1}), HasSubstr("found -1; expected indices from 0 to 3"));
  EXPECT_THAT(refusal({2, 1}), HasSubstr("found 1 after 2; expected ascending indices"));
}

TEST(ExpandedIndex, MovesALayerBehindTheCopiesOfThoseBeforeIt) {
  const auto copies = copies_after({1, 4}, 12);
  const std::vector<int> expected = {0, 1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13};
  for (int l = 0; l < 12; ++l) EXPECT_EQ(expanded_index(l, copies), expected[static_cast<std::size_t>(l)]) << l;
}

TEST(ExpandedName, ChangesTheIndexOfTheLayerAndNothingElse) {
  const auto copies = copies_after({1, 4}, 12);
  const auto renamed = [&](const std::string& name) { return expanded_name(name, copies); };
  EXPECT_EQ(renamed("model.layers.1.self_attn.q_proj.weight"), "model.layers.1.self_attn.q_proj.weight");
  EXPECT_EQ(renamed("model.layers.2.mlp.up_proj.bias"), "model.layers.3.mlp.up_proj.bias");
  EXPECT_EQ(renamed("model.layers.11.mlp.experts.1.up_proj.weight"), "model.layers.13.mlp.experts.1.up_proj.weight");
  EXPECT_EQ(renamed("model.layers.10.input_layernorm.weight"), "model.layers.12.input_layernorm.weight");
  for (const std::string name : {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.layers.x.w",
                                 "encoder.model.layers.5.w", "model.layers.5"})
    EXPECT_EQ(renamed(name), name);
}

TEST(ExpandConfig, AddsTheCopiesAndKeepsEverythingElseInItsOrder) {
  const Json config = test::config_of_kind("llama");
  Json expanded = expand_config(config, kFields, copies_after({0, 3}, 4), "config.json");
  EXPECT_EQ(expanded["num_hidden_layers"], 6);
  expanded["num_hidden_layers"] = 4;
  EXPECT_EQ(expanded.dump(), config.dump());
}

TEST(ExpandConfig, GivesEachCopyItsSourcesEntryOfPerLayerLists) {
  Json config = test::config_of_kind("qwen3");
  config["layer_types"] = {"a", "b", "c", "d"};
  config["mlp_layer_types"] = {"dense", "sparse", "dense", "sparse"};
  const Json expanded = expand_config(config, kFields, copies_after({1, 3}, 4), "config.json");
  EXPECT_EQ(expanded["layer_types"], Json({"a", "b", "b", "c", "d", "d"}));
  EXPECT_EQ(expanded["mlp_layer_types"], Json({"dense", "sparse", "sparse", "dense", "sparse", "sparse"}));
}

TEST(ExpandConfig, MovesMaxWindowLayersSoThatACopySeesWhatItsSourceSees) {
  const auto moved = [](int threshold, const std::vector<int>& after) {
    Json config = test::config_of_kind("qwen2");
    config["max_window_layers"] = threshold;
    return expand_config(config, kFields, place_copies(after, 4), "config.json")["max_window_layers"].get<int>();
  };
  EXPECT_EQ(moved(0, {0, 2}), 0);    // every layer has the window, and stays so
  EXPECT_EQ(moved(2, {2, 3}), 2);    // copies above the threshold
  EXPECT_EQ(moved(2, {0, 1}), 4);    // copies below
  EXPECT_EQ(moved(2, {1, 2}), 3);    // one on either side
  EXPECT_EQ(moved(4, {0, 3}), 6);    // == num_hidden_layers: no layer has the window, and stays so
  EXPECT_EQ(moved(28, {0, 3}), 30);  // above all layers
}

TEST(ExpandConfig, WritesThePatternOfAGemma3AsAList) {
  const Json config = test::config_of_kind("gemma3");
  const Json expanded = expand_config(test::tiny_config(config), copies_after({1, 2}, 4), "config.json");
  EXPECT_EQ(expanded["layer_types"], Json({"sliding_attention", "sliding_attention", "sliding_attention",
                                           "full_attention", "full_attention", "sliding_attention"}));
  EXPECT_FALSE(expanded.contains("sliding_window_pattern"));
}

TEST(ExpandConfig, WritesTheAlternationOfAGemma2AsAList) {
  const Json config = test::config_of_kind("gemma2");
  const Json expanded = expand_config(test::tiny_config(config), copies_after({0, 3}, 4), "config.json");
  EXPECT_EQ(expanded["layer_types"], Json({"sliding_attention", "sliding_attention", "full_attention",
                                           "sliding_attention", "full_attention", "full_attention"}));
}

TEST(ExpandConfig, RefusesUnknownPerLayerListsByNameAllAtOnce) {
  Json config = test::config_of_kind("llama");
  config["my_scales"] = {1.0, 2.0, 3.0, 4.0};
  config["layer_types"] = {"a", "b", "c"};
  const std::string message =
      test::message_of<DataError>([&] { expand_config(config, kFields, copies_after({0}, 4), "dir/config.json"); });
  EXPECT_THAT(message, HasSubstr("dir/config.json: cannot be expanded"));
  EXPECT_THAT(message, HasSubstr("my_scales has one entry per layer, but its meaning is unknown"));
  EXPECT_THAT(message, HasSubstr("layer_types has 3 entries; expected num_hidden_layers = 4"));
}

TEST(ExpandConfig, TakesNullsAndListsOfOtherThings) {
  Json config = test::config_of_kind("llama");
  config["max_window_layers"] = nullptr;
  config["layer_types"] = nullptr;
  config["eos_token_id"] = {2, 3, 4, 5};
  config["other"] = {1, 2, 3};
  const Json expanded = expand_config(config, kFields, copies_after({0}, 4), "config.json");
  for (const char* key : {"max_window_layers", "layer_types", "eos_token_id", "other"})
    EXPECT_EQ(expanded[key], config[key]) << key;
}

}  // namespace
}  // namespace adept::method
