#include "adept/model/decoder.h"
#include "adept/model/kv_cache.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/function.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <unordered_set>

#include "adept/core/error.h"
#include "adept/model/generate.h"
#include "adept/nn/cross_entropy.h"
#include "tests/support/counted_operations.h"
#include "tests/support/tolerance.h"
#include "tests/unit/model/random_model.h"

namespace adept::model {
namespace {

using ::testing::HasSubstr;

Decoder decoder_of(const Json& json) {
  const ModelConfig config = test::tiny_config(json);
  return Decoder(config, test::random_weights(config));
}

at::Tensor random_ids(std::int64_t rows, std::int64_t columns) {
  at::manual_seed(11);
  return at::randint(3, 53, {rows, columns}, at::kLong);
}

Json sliding_qwen() {
  Json json = test::tiny_config_json("qwen3");
  json["use_sliding_window"] = true;
  json["sliding_window"] = 4;
  json["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  return json;
}

TEST(Decoder, PrefixAndSuffixAreTheWholeBitForBit) {
  const Decoder decoder = decoder_of(test::tiny_config_json());
  const at::Tensor ids = random_ids(2, 13), whole = decoder.forward(ids, {});
  for (std::int64_t cut = 0; cut <= 3; ++cut) {
    EXPECT_TRUE(decoder.layers(decoder.layers(decoder.embed(ids), 0, cut, {}), cut, 3, {}).equal(whole));
  }
}

TEST(Decoder, ForwardLeavesItsInputAlone) {
  const Decoder decoder = decoder_of(test::tiny_config_json());
  const at::Tensor h = decoder.embed(random_ids(2, 13)), copy = h.clone();
  decoder.layers(h, 0, 3, {});
  decoder.logits(h);
  EXPECT_TRUE(h.equal(copy));
}

TEST(Decoder, PaddingOnTheRightChangesNothing) {
  for (const Json& json : {test::tiny_config_json(), sliding_qwen()}) {
    const Decoder decoder = decoder_of(json);
    const at::Tensor ids = random_ids(1, 9), padded = at::cat({ids, at::full({1, 5}, 2, at::kLong)}, 1);
    EXPECT_TRUE(test::is_close(decoder.forward(padded, {}).narrow(1, 0, 9), decoder.forward(ids, {}), 1e-5));
  }
}

TEST(Decoder, LossIsThatOfItsLogits) {
  const Decoder decoder = decoder_of(test::tiny_config_json());
  const at::Tensor ids = random_ids(2, 13), h = decoder.forward(ids, {});
  at::Tensor targets = random_ids(2, 13);
  targets[0][4] = nn::kIgnoreIndex;
  at::Tensor expected = -decoder.logits(h).log_softmax(-1).gather(2, targets.clamp_min(0).unsqueeze(2)).squeeze(2);
  expected[0][4] = 0;
  EXPECT_TRUE(test::is_close(decoder.token_losses(h, targets), expected, 1e-5));
  EXPECT_TRUE(test::is_close(decoder.loss_sum(h, targets), expected.sum(), 1e-5));
}

/// Number of autograd nodes that a backward pass of `loss` would visit.
std::size_t graph_size(const at::Tensor& loss) {
  std::unordered_set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> stack;
  const auto visit = [&](torch::autograd::Node* node) {
    if (node != nullptr && seen.insert(node).second) stack.push_back(node);
  };
  visit(loss.grad_fn().get());
  while (!stack.empty()) {
    torch::autograd::Node* node = stack.back();
    stack.pop_back();
    for (const auto& edge : node->next_edges()) visit(edge.function.get());
  }
  return seen.size();
}

TEST(Decoder, NoGraphExistsBelowTheLowestTrainedLayer) {
  Decoder decoder = decoder_of(test::tiny_config_json());
  const at::Tensor ids = random_ids(2, 13), targets = random_ids(2, 13);
  EXPECT_FALSE(decoder.loss_sum(decoder.forward(ids, {}), targets).requires_grad());
  std::vector<std::size_t> sizes;
  for (const std::int64_t trained : {2, 1, 0}) {
    Decoder fresh = decoder_of(test::tiny_config_json());
    for (const Parameter& unit : layer_parameters(fresh.weights(), trained)) unit.tensor->requires_grad_();
    const at::Tensor below = fresh.layers(fresh.embed(ids), 0, trained, {});
    EXPECT_FALSE(below.requires_grad());
    const at::Tensor loss = fresh.loss_sum(fresh.layers(below, trained, 3, {}), targets);
    sizes.push_back(graph_size(loss));
    loss.backward();
    for (const Parameter& parameter : named_parameters(fresh.config(), fresh.weights())) {
      EXPECT_EQ(parameter.tensor->grad().defined(), parameter.layer == trained) << parameter.name;
    }
  }
  EXPECT_LT(sizes[0], sizes[1]);
  EXPECT_LT(sizes[1], sizes[2]);
}

TEST(Decoder, TiedHeadAndEmbeddingsShareOneGradient) {
  Json json = test::tiny_config_json();
  json["tie_word_embeddings"] = true;
  Decoder decoder = decoder_of(json);
  EXPECT_EQ(decoder.weights().lm_head.weight.data_ptr(), decoder.weights().embed_tokens.weight.data_ptr());
  decoder.weights().embed_tokens.weight.requires_grad_();
  decoder.loss_sum(decoder.forward(random_ids(1, 5), {}), random_ids(1, 5)).backward();
  EXPECT_TRUE(decoder.weights().lm_head.weight.grad().equal(decoder.weights().embed_tokens.weight.grad()));
}

TEST(Decoder, RefusesTokensOutsideTheVocabulary) {
  const Decoder decoder = decoder_of(test::tiny_config_json());
  for (const std::int64_t token : {-1, 53}) {
    try {
      decoder.embed(at::full({1, 2}, token, at::kLong));
      FAIL();
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr("is outside the model's vocabulary of 53 tokens"));
    }
  }
}

TEST(Decoder, StepsWithACacheEqualOnePass) {
  const at::NoGradGuard no_grad;
  for (const Json& json : {test::tiny_config_json(), sliding_qwen()}) {
    const Decoder decoder = decoder_of(json);
    const at::Tensor ids = random_ids(2, 19), whole = decoder.forward(ids, {});
    for (const std::int64_t first : {1, 2, 7}) {
      KeyValueCache cache(3);
      std::vector<at::Tensor> parts;
      for (std::int64_t begin = 0; begin < 19;) {
        const std::int64_t count = std::min<std::int64_t>(begin == 0 ? first : begin % 3 + 1, 19 - begin);
        parts.push_back(decoder.layers(decoder.embed(ids.narrow(1, begin, count)), 0, 3, {.cache = &cache}));
        begin += count;
      }
      EXPECT_EQ(cache.length(1), 19);
      EXPECT_TRUE(test::is_close(at::cat(parts, 1), whole, 1e-5));
    }
  }
}

TEST(Decoder, TheCacheGrowsBeyondItsFirstBuffer) {
  const at::NoGradGuard no_grad;
  const Decoder decoder = decoder_of(test::tiny_config_json());
  const at::Tensor ids = random_ids(1, 300), whole = decoder.forward(ids, {});
  KeyValueCache cache(3);
  decoder.layers(decoder.embed(ids.narrow(1, 0, 255)), 0, 3, {.cache = &cache});
  const at::Tensor tail = decoder.layers(decoder.embed(ids.narrow(1, 255, 45)), 0, 3, {.cache = &cache});
  EXPECT_TRUE(test::is_close(tail, whole.narrow(1, 255, 45), 1e-5));
}

std::vector<std::int64_t> generated(const Decoder& decoder, GenerateOptions options) {
  const std::vector<std::int64_t> prompt = {1, 9, 30};
  return generate(decoder, prompt, options);
}

TEST(Generate, CachedTextEqualsUncached) {
  for (const Json& json : {test::tiny_config_json(), sliding_qwen()}) {
    const Decoder decoder = decoder_of(json);
    for (const double temperature : {0.0, 1.0}) {
      GenerateOptions options{.max_new_tokens = 40, .temperature = temperature, .top_p = 0.9, .seed = 4};
      const auto cached = generated(decoder, options);
      options.use_cache = false;
      EXPECT_EQ(generated(decoder, options), cached);
      EXPECT_EQ(cached.size(), 40U);
    }
  }
}

// 8 tokens of the text are rotated otherwise than more: those in the cache, and those of a prompt's first piece.
Json longrope_phi() {
  Json json = test::tiny_config_json("phi3");
  json["original_max_position_embeddings"] = 8;
  json["rope_scaling"] = {{"type", "longrope"}, {"short_factor", {1, 2}}, {"long_factor", {3, 9}}};
  return json;
}

TEST(Generate, ACacheIsFilledAnewWhereTheTextBecomesALongOne) {
  const Decoder decoder = decoder_of(longrope_phi());
  GenerateOptions options{.max_new_tokens = 12};
  const auto cached = generated(decoder, options);
  options.use_cache = false;
  EXPECT_EQ(generated(decoder, options), cached);
}

TEST(Decoder, LongRopeLooksAtTheLengthOfEachDocument) {
  const at::NoGradGuard no_grad;
  const Decoder decoder = decoder_of(longrope_phi());
  const at::Tensor ids = random_ids(1, 12), whole = decoder.forward(ids, {});
  const at::Tensor starts = at::tensor({0, 0, 0, 0, 0, 0, 6, 6, 6, 6, 6, 6}, at::kInt).unsqueeze(0);
  const at::Tensor found = decoder.forward(ids, {.document_starts = starts});
  EXPECT_TRUE(test::is_close(found.narrow(1, 0, 6), decoder.forward(ids.narrow(1, 0, 6), {}), 1e-5));
  EXPECT_TRUE(test::is_close(found.narrow(1, 6, 6), decoder.forward(ids.narrow(1, 6, 6), {}), 1e-5));
  EXPECT_FALSE(test::is_close(whole.narrow(1, 0, 6), found.narrow(1, 0, 6), 1e-3)) << "12 tokens are a long text";
}

TEST(Decoder, LongRopeLooksAtTheLengthOfEachRowWithoutItsPadding) {
  const at::NoGradGuard no_grad;
  const Decoder decoder = decoder_of(longrope_phi());
  const std::vector<data::Sequence> sequences = {{.tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8}},
                                                 {.tokens = {2, 7, 1, 8, 2, 8, 1, 8}},
                                                 {.tokens = {1, 4, 1, 4, 2, 1, 3, 5, 6}}};
  const auto losses = [&](std::span<const data::Sequence> rows) {
    const Batch batch = to_batch(data::make_batch(rows), at::kCPU);
    return decoder.token_losses(decoder.forward(batch.input_ids, batch.context()), batch.targets);
  };
  const at::Tensor together = losses(sequences);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const auto length = std::ssize(sequences[i].tokens);
    EXPECT_TRUE(test::is_close(together[static_cast<std::int64_t>(i)].narrow(0, 0, length),
                               losses({&sequences[i], 1})[0], 1e-5))
        << length << " tokens";
  }
}

TEST(Decoder, LongRopeMakesTheTablesOfABatchOnceForAllLayers) {
  const at::NoGradGuard no_grad;
  const Decoder decoder = decoder_of(longrope_phi());
  const std::vector<data::Sequence> sequences = {{.tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8}},
                                                 {.tokens = {2, 7, 1, 8, 2, 8, 1, 8}}};
  const Batch batch = to_batch(data::make_batch(sequences), at::kCPU);
  const Context context = batch.context();
  const at::Tensor h = decoder.embed(batch.input_ids);
  test::CountedOperations operations;
  const auto of_layer = [&](std::int64_t layer) {
    operations.ends(-1, [&] { decoder.layer(h, layer, context); });
    return operations.count();
  };
  const std::int64_t of_first = of_layer(0), of_second = of_layer(1);
  EXPECT_LT(of_second, of_first);
  EXPECT_EQ(of_layer(2), of_second);
}

TEST(Generate, ALongPromptIsReadInPieces) {
  for (const Json& json : {sliding_qwen(), longrope_phi()}) {
    const Decoder decoder = decoder_of(json);
    std::vector<std::int64_t> prompt(2500);
    for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<std::int64_t>(i * i % 31);
    GenerateOptions options{.max_new_tokens = 3};
    const auto cached = generate(decoder, prompt, options);
    options.use_cache = false;
    EXPECT_EQ(generate(decoder, prompt, options), cached);
  }
}

TEST(Decoder, APassEndsWhereWhatIsCalledBetweenLayersThrows) {
  static int calls = 0;
  const BetweenLayers between = [] {
    if (++calls == 4) throw InterruptedError("between", ExitCode::kInterrupted);
  };
  const Decoder decoder = decoder_of(test::tiny_config_json());
  EXPECT_THROW(decoder.forward(random_ids(1, 8), {.between = between}), InterruptedError);
  EXPECT_EQ(calls, 4);  // twice a layer, of which there are three
}

TEST(Generate, TheSeedDecidesTheText) {
  const Decoder decoder = decoder_of(test::tiny_config_json());
  const GenerateOptions options{.max_new_tokens = 30, .temperature = 1.5, .seed = 4};
  GenerateOptions other = options;
  other.seed = 5;
  EXPECT_EQ(generated(decoder, options), generated(decoder, options));
  EXPECT_NE(generated(decoder, options), generated(decoder, other));
}

TEST(Generate, EndsAfterAnEndOfSequenceTokenOrWhenTold) {
  const Decoder decoder = decoder_of(test::tiny_config_json());
  GenerateOptions options{.max_new_tokens = 30, .temperature = 1.5, .seed = 4};
  const auto all = generated(decoder, options);
  options.eos_token_ids = {all[6]};
  const auto cut = generated(decoder, options);
  EXPECT_EQ(cut.back(), all[6]);
  EXPECT_LE(cut.size(), 7U);
  options.eos_token_ids.clear();
  const std::vector<std::int64_t> prompt = {1, 9, 30};
  std::vector<std::int64_t> streamed;
  generate(decoder, prompt, options, [&](std::int64_t token) {
    streamed.push_back(token);
    return streamed.size() < 5;
  });
  EXPECT_EQ(streamed, std::vector<std::int64_t>(all.begin(), all.begin() + 5));
}

TEST(Generate, RefusesImpossibleOptions) {
  const Decoder decoder = decoder_of(test::tiny_config_json());
  const auto refusal = [&](GenerateOptions options) -> std::string {
    try {
      generated(decoder, options);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "(accepted)";
  };
  EXPECT_THAT(refusal({.temperature = -1}), HasSubstr("temperature is -1; expected 0 (greedy) or more"));
  EXPECT_THAT(refusal({.top_p = 0}), HasSubstr("top_p is 0; expected a number above 0, at most 1"));
  EXPECT_THAT(refusal({.max_new_tokens = -1}), HasSubstr("max_new_tokens is -1"));
  EXPECT_THROW(generate(decoder, {}, {}), ConfigError);
}

TEST(ReadEndTokens, PrefersTheGenerationConfig) {
  const auto directory = std::filesystem::temp_directory_path() / ("adept_end_tokens" + std::to_string(getpid()));
  std::filesystem::create_directories(directory);
  const ModelConfig config = test::tiny_config();
  EXPECT_THAT(read_end_tokens(directory, config), ::testing::ElementsAre(2));
  const auto write = [&](const std::string& text) { std::ofstream(directory / "generation_config.json") << text; };
  write(R"({"temperature": 0.6})");
  EXPECT_THAT(read_end_tokens(directory, config), ::testing::ElementsAre(2));
  write(R"({"eos_token_id": [7, 8]})");
  EXPECT_THAT(read_end_tokens(directory, config), ::testing::ElementsAre(7, 8));
  write(R"({"eos_token_id": "</s>"})");
  EXPECT_THROW(read_end_tokens(directory, config), DataError);
  std::filesystem::remove_all(directory);
}

TEST(SampleToken, FollowsTheDistribution) {
  const at::Tensor logits = at::tensor({0.1, 0.6, 0.2, 0.1}, at::kDouble).log();
  EXPECT_EQ(sample_token(logits, 0, 1, 0.99), 1);
  EXPECT_EQ(sample_token(logits, 1, 1, 0.0), 1);
  EXPECT_EQ(sample_token(logits, 1, 1, 0.59), 1);
  EXPECT_EQ(sample_token(logits, 1, 1, 0.61), 2);
  EXPECT_EQ(sample_token(logits, 1, 1, 0.81), 0);  // equals in the order of their ids
  EXPECT_EQ(sample_token(logits, 1, 1, 0.99), 3);
  EXPECT_EQ(sample_token(logits, 1, 0.5, 0.99), 1);
  EXPECT_EQ(sample_token(logits, 1, 0.7, 0.99), 2);
  EXPECT_EQ(sample_token(logits, 0.01, 1, 0.99), 1);
}

TEST(SampleToken, RefusesLogitsThatAreNotFinite) {
  EXPECT_THROW(sample_token(at::tensor({0.0, std::nan("")}), 1, 1, 0.5), NonFiniteError);
}

}  // namespace
}  // namespace adept::model
