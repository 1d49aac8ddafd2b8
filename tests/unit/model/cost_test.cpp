#include "adept/model/cost.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/model/random_model.h"

namespace adept::model {
namespace {

Json ten_layers(const std::string& model_type = "llama") {
  Json json = test::tiny_config_json(model_type);
  json["num_hidden_layers"] = 10;
  json["hidden_size"] = 100;
  json["intermediate_size"] = 300;
  json["num_attention_heads"] = 4;
  json["num_key_value_heads"] = 2;
  json["head_dim"] = 26;
  json["vocab_size"] = 1000;
  return json;
}

// P weights of a layer's matrices, a operations of its attention at 64 tokens, h of the head.
constexpr double kLayer = 2 * (100 * (104 + 52 + 52 + 104) + 3 * 100 * 300), kHead = 200'000;
constexpr double attention(double mean_visible) { return 4 * 104 * mean_visible; }

TEST(StepCost, IsTheSumOfItsParts) {
  const ModelConfig c = test::tiny_config(ten_layers());
  const double a = attention(32);
  const std::vector<int> after = {6, 8};
  EXPECT_DOUBLE_EQ(copies_step_flops(c, 64, after),
                   12 * (kLayer + a) + kHead + kHead + 3 * (kLayer + 2 * a) + 2 * (2 * kLayer + 2 * a));
  EXPECT_DOUBLE_EQ(full_step_flops(c, 64), 3 * (10 * (kLayer + a) + kHead));
  const std::vector<int> high = {9, 9}, low = {0, 0};
  EXPECT_LT(copies_step_flops(c, 64, high), copies_step_flops(c, 64, low));
}

TEST(StepCost, CountsWhatSlidingWindowsLetAQuerySee) {
  Json json = ten_layers("qwen3");
  json["use_sliding_window"] = true;
  json["sliding_window"] = 16;
  json["max_window_layers"] = 7;
  const ModelConfig c = test::tiny_config(json);
  // 16 tokens, less in the first 16 queries: 16 (64 - 8) / 64.
  EXPECT_DOUBLE_EQ(full_step_flops(c, 64), 3 * (10 * kLayer + 7 * attention(32) + 3 * attention(14) + kHead));
  const std::vector<int> after = {9};
  EXPECT_DOUBLE_EQ(copies_step_flops(c, 64, after),
                   11 * kLayer + 7 * attention(32) + 4 * attention(14) + 2 * kHead + 2 * kLayer + 2 * attention(14));
}

}  // namespace
}  // namespace adept::model
