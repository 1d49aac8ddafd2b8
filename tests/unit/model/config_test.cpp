#include "adept/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adept/core/error.h"
#include "adept/model/architectures/architecture.h"
#include "tests/support/reads.h"
#include "tests/support/tiny_models.h"
#include "tests/unit/model/random_model.h"

namespace adept::model {
namespace {

using test::Says;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Json llama() {
  return Json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "vocab_size": 300, "rms_norm_eps": 1e-5, "hidden_act": "silu", "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": [2, 7], "initializer_range": 0.02, "use_cache": true, "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1"})");
}

Json with(Json config, const std::string& key, Json value) {
  config[key] = std::move(value);
  return config;
}

Json of_type(const std::string& type, const std::string& class_name) {
  return with(with(llama(), "model_type", type), "architectures", Json::array({class_name}));
}

ModelConfig parse(const Json& config) { return parse_model_config(config, "m/config.json"); }

std::string refusal(const Json& config) {
  try {
    parse(config);
  } catch (const DataError& error) {
    return error.what();
  }
  return "(accepted)";
}

TEST(ModelConfig, ListsTheFirstOfManyProblems) {
  Json config = llama();
  for (int i = 0; i < 1000; ++i) config[fmt::format("key_{}", i)] = i;
  const std::string message = refusal(config);
  EXPECT_THAT(message, AllOf(HasSubstr("m/config.json: key_49 is 49"), HasSubstr("\n... and 950 more")));
  EXPECT_THAT(message, Not(HasSubstr("key_50 ")));
}

TEST(ModelConfig, ReadsALlama) {
  const ModelConfig config = parse(llama());
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.num_hidden_layers, 4);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.ropes[0].theta, 10000);
  EXPECT_FALSE(config.tie_word_embeddings);
  for (const char* name :
       {"self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.up_proj.bias", "self_attn.q_norm.weight"})
    EXPECT_FALSE(test::has_parameter(config, name)) << name;
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2, 7));
  EXPECT_THAT(test::windows_of(config), ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_EQ(config.source, llama());
}

// The defaults of transformers' configuration classes.
TEST(ModelConfig, FillsMissingKeysAsTransformersDoes) {
  Json config = llama();
  for (const char* key : {"num_key_value_heads", "bos_token_id", "eos_token_id", "rms_norm_eps", "hidden_act"})
    config.erase(key);
  const ModelConfig as_llama = parse(config);
  EXPECT_EQ(as_llama.num_key_value_heads, 8);
  EXPECT_EQ(as_llama.rms_norm_eps, 1e-6);
  EXPECT_THAT(as_llama.eos_token_ids, ElementsAre(2));
  config["architectures"] = nullptr;
  config["model_type"] = "mistral";
  EXPECT_EQ(parse(config).num_key_value_heads, 8);
  EXPECT_THAT(test::windows_of(parse(config)), ElementsAre(4096, 4096, 4096, 4096));
  config["num_key_value_heads"] = 2;
  config["model_type"] = "qwen3";
  const ModelConfig as_qwen = parse(config);
  EXPECT_EQ(as_qwen.head_dim, 128);
  EXPECT_TRUE(as_qwen.eos_token_ids.empty());
}

Json phi3() { return of_type("phi3", "Phi3ForCausalLM"); }

TEST(ModelConfig, ReadsBiasesNormsAndHeadDimPerArchitecture) {
  const ModelConfig biased = parse(with(with(with(llama(), "attention_bias", true), "mlp_bias", true), "head_dim", 10));
  for (const char* name : {"self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.up_proj.bias"})
    EXPECT_TRUE(test::has_parameter(biased, name)) << name;
  EXPECT_EQ(biased.head_dim, 10);
  const ModelConfig qwen2 = parse(of_type("qwen2", "Qwen2ForCausalLM"));
  EXPECT_TRUE(test::has_parameter(qwen2, "self_attn.q_proj.bias"));
  EXPECT_FALSE(test::has_parameter(qwen2, "self_attn.o_proj.bias"));
  EXPECT_FALSE(test::has_parameter(qwen2, "self_attn.q_norm.weight"));
  const ModelConfig qwen3 = parse(of_type("qwen3", "Qwen3ForCausalLM"));
  EXPECT_FALSE(test::has_parameter(qwen3, "self_attn.q_proj.bias"));
  EXPECT_TRUE(test::has_parameter(qwen3, "self_attn.q_norm.weight"));
  const ModelConfig olmo2 = parse(of_type("olmo2", "Olmo2ForCausalLM"));
  EXPECT_FALSE(test::has_parameter(olmo2, "input_layernorm.weight"));
  EXPECT_EQ(olmo2.layers[0].attention.body.k_norm->width, olmo2.num_key_value_heads * olmo2.head_dim);
  EXPECT_TRUE(test::has_parameter(parse(phi3()), "mlp.gate_up_proj.weight"));
}

TEST(ModelConfig, ReadsBothSpellingsOfRope) {
  const Json scaling = Json::parse(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 128})");
  const ModelConfig old_one = parse(with(with(llama(), "rope_theta", 5e5), "rope_scaling", scaling));
  const ModelConfig new_one = parse(with(llama(), "rope_parameters", with(scaling, "rope_theta", 5e5)));
  for (const ModelConfig& config : {old_one, new_one}) {
    EXPECT_EQ(config.ropes[0].type, nn::RopeType::kLlama3);
    EXPECT_EQ(config.ropes[0].theta, 5e5);
    EXPECT_EQ(config.ropes[0].factor, 8);
    EXPECT_EQ(config.ropes[0].original_max_position_embeddings, 128);
  }
  const ModelConfig linear = parse(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2}}));
  EXPECT_EQ(linear.ropes[0].type, nn::RopeType::kLinear);
  EXPECT_EQ(linear.ropes[0].factor, 2);
  EXPECT_EQ(parse(with(llama(), "rope_scaling", nullptr)).ropes[0].type, nn::RopeType::kDefault);
}

TEST(ModelConfig, Llama3ScalingFallsBackToTheContextLength) {
  const Json scaling = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1}, {"high_freq_factor", 4}};
  EXPECT_EQ(parse(with(llama(), "rope_scaling", scaling)).ropes[0].original_max_position_embeddings, 512);
}

TEST(ModelConfig, ReadsSlidingWindows) {
  const Json mistral = of_type("mistral", "MistralForCausalLM");
  EXPECT_THAT(test::windows_of(parse(with(mistral, "sliding_window", 16))), ElementsAre(16, 16, 16, 16));
  EXPECT_THAT(test::windows_of(parse(with(mistral, "sliding_window", nullptr))), ElementsAre(0, 0, 0, 0));
  Json qwen = with(of_type("qwen2", "Qwen2ForCausalLM"), "sliding_window", 16);
  EXPECT_THAT(test::windows_of(parse(qwen)), ElementsAre(0, 0, 0, 0));
  qwen["use_sliding_window"] = true;
  EXPECT_THAT(test::windows_of(parse(qwen)), ElementsAre(0, 0, 0, 0));  // max_window_layers is 28 by default
  qwen["max_window_layers"] = 3;
  EXPECT_THAT(test::windows_of(parse(qwen)), ElementsAre(0, 0, 0, 16));
  qwen["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  EXPECT_THAT(test::windows_of(parse(qwen)), ElementsAre(16, 0, 16, 0));
}

Json gemma3() {
  Json config = of_type("gemma3_text", "Gemma3ForCausalLM");
  config.erase("hidden_act");
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["num_hidden_layers"] = 7;
  config["head_dim"] = 16;
  config["sliding_window"] = 12;
  return config;
}

TEST(ModelConfig, ReadsAGemma3) {
  const ModelConfig config = parse(gemma3());
  EXPECT_TRUE(config.tie_word_embeddings) << "unless the file says otherwise";
  EXPECT_EQ(config.embedding_scale.factor, 8);
  EXPECT_EQ(config.norm.offset(), 1);
  EXPECT_THAT(test::windows_of(config), ElementsAre(12, 12, 12, 12, 12, 0, 12));
  const Attention& body = config.layers[0].attention.body;
  EXPECT_DOUBLE_EQ(body.scoring.scale.value(), 1.0 / 16) << "query_pre_attn_scalar is 256 by default";
  EXPECT_EQ(config.ropes[body.rope].theta, 1e4);
  EXPECT_EQ(config.ropes[config.layers[5].attention.body.rope].theta, 1e6);
  EXPECT_THAT(test::windows_of(parse(with(gemma3(), "sliding_window_pattern", 2))),
              ElementsAre(12, 0, 12, 0, 12, 0, 12));
}

TEST(ModelConfig, ReadsBothSpellingsOfGemmasTwoRopes) {
  const Json old_one = with(with(with(gemma3(), "rope_theta", 5e5), "rope_local_base_freq", 2e4), "rope_scaling",
                            {{"rope_type", "linear"}, {"factor", 8}});
  const Json new_one = with(gemma3(), "rope_parameters",
                            {{"full_attention", {{"rope_type", "linear"}, {"factor", 8}, {"rope_theta", 5e5}}},
                             {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 2e4}}}});
  for (const ModelConfig& config : {parse(old_one), parse(new_one)}) {
    ASSERT_EQ(config.ropes.size(), 2U);
    EXPECT_EQ(config.ropes[0].type, nn::RopeType::kLinear);
    EXPECT_EQ(config.ropes[0].factor, 8);
    EXPECT_EQ(config.ropes[0].theta, 5e5);
    EXPECT_EQ(config.ropes[1].type, nn::RopeType::kDefault);
    EXPECT_EQ(config.ropes[1].theta, 2e4);
  }
  EXPECT_THAT(refusal(with(new_one, "rope_theta", 1e6)),
              Says("rope_parameters.full_attention.rope_theta...500000...1000000"));
}

TEST(ModelConfig, RefusesWhatGemma3CouldHaveBeyondThis) {
  EXPECT_THAT(refusal(with(gemma3(), "hidden_activation", "gelu")), HasSubstr("hidden_activation is \"gelu\""));
  EXPECT_THAT(refusal(with(gemma3(), "final_logit_softcapping", 30)), HasSubstr("final_logit_softcapping is 30"));
  EXPECT_THAT(refusal(with(gemma3(), "use_bidirectional_attention", true)), HasSubstr("Attention is causal here"));
  EXPECT_THAT(refusal(with(gemma3(), "sliding_window", nullptr)), HasSubstr("sliding_window is null; expected"));
}

TEST(ModelConfig, SaysWhatToDoWithAMultimodalModel) {
  const Json config = {{"model_type", "gemma3"},
                       {"architectures", {"Gemma3ForConditionalGeneration"}},
                       {"text_config", gemma3()},
                       {"vision_config", {{"model_type", "siglip_vision_model"}}}};
  EXPECT_THAT(refusal(config), AllOf(HasSubstr("model_type is \"gemma3\""), HasSubstr("gemma3_text"),
                                     HasSubstr("text_config (model_type \"gemma3_text\") describes the language model"),
                                     HasSubstr("Save that model alone")));
  EXPECT_THAT(refusal({{"model_type", "gemma3"}, {"text_config", Json::object()}}), HasSubstr("text_config describes"));
  EXPECT_THAT(refusal({{"model_type", "gpt2"}}), Not(HasSubstr("multimodal")));
}

Json gemma2() {
  Json config = gemma3();
  config["model_type"] = "gemma2";
  config["cache_implementation"] = "hybrid";
  config["architectures"] = {"Gemma2ForCausalLM"};
  return config;
}

TEST(ModelConfig, ReadsAGemma2) {
  const ModelConfig config = parse(gemma2());
  EXPECT_THAT(test::windows_of(config), ElementsAre(12, 0, 12, 0, 12, 0, 12));
  EXPECT_EQ(config.ropes.size(), 1U);
  EXPECT_EQ(config.ropes[0].theta, 1e4);
  EXPECT_EQ(config.embedding_scale.factor, 8);
  EXPECT_TRUE(config.embedding_scale.is_rounded);
  EXPECT_EQ(config.norm.offset(), 1);
  EXPECT_EQ(config.logit_soft_cap, 30);
  const Attention& body = config.layers[0].attention.body;
  EXPECT_EQ(body.scoring.soft_cap, 50);
  EXPECT_DOUBLE_EQ(body.scoring.scale.value(), 1.0 / 16) << "query_pre_attn_scalar is 256 by default";
  EXPECT_FALSE(test::has_parameter(config, "self_attn.q_norm.weight"));
  const ModelConfig listed =
      parse(with(with(gemma2(), "num_hidden_layers", 2), "layer_types", {"full_attention", "sliding_attention"}));
  EXPECT_THAT(test::windows_of(listed), ElementsAre(0, 12));
  EXPECT_THAT(test::windows_of(parse(with(gemma2(), "sliding_window_size", 4096))),
              ElementsAre(12, 0, 12, 0, 12, 0, 12));
}

TEST(ModelConfig, ASoftCapOfNullIsNone) {
  const ModelConfig config =
      parse(with(with(gemma2(), "attn_logit_softcapping", nullptr), "final_logit_softcapping", nullptr));
  EXPECT_EQ(config.layers[0].attention.body.scoring.soft_cap, 0);
  EXPECT_EQ(config.logit_soft_cap, 0);
  EXPECT_THAT(refusal(with(gemma2(), "attn_logit_softcapping", 0)), HasSubstr("attn_logit_softcapping is 0"));
  EXPECT_THAT(refusal(with(gemma2(), "final_logit_softcapping", -3)), HasSubstr("final_logit_softcapping is -3"));
}

TEST(ModelConfig, ReadsTheMultipliersOfAGranite) {
  const Json granite = of_type("granite", "GraniteForCausalLM");
  const ModelConfig plain = parse(granite);
  EXPECT_EQ(plain.layers[0].attention.body.scoring.scale, 1.0) << "not 1 / sqrt(head_dim)";
  EXPECT_EQ(plain.embedding_scale.factor * plain.logit_divisor * plain.layers[0].attention.multiplier, 1);
  const ModelConfig config = parse(with(
      with(with(with(granite, "embedding_multiplier", 12), "attention_multiplier", 0.125), "residual_multiplier", 0.22),
      "logits_scaling", 8));
  EXPECT_EQ(config.embedding_scale.factor, 12);
  EXPECT_FALSE(config.embedding_scale.is_rounded);
  EXPECT_EQ(config.logit_divisor, 8);
  for (const Layer& layer : config.layers) {
    EXPECT_EQ(layer.attention.body.scoring.scale, 0.125);
    EXPECT_EQ(layer.attention.multiplier, 0.22);
    EXPECT_EQ(layer.feed_forward.multiplier, 0.22);
  }
  for (const char* key : {"embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"})
    EXPECT_THAT(refusal(with(granite, key, 0)), HasSubstr(std::string(key) + " is 0")) << key;
}

Json longrope(std::size_t pairs) {
  return {{"rope_type", "longrope"},
          {"short_factor", std::vector<double>(pairs, 1.5)},
          {"long_factor", std::vector<double>(pairs, 4)}};
}

TEST(ModelConfig, ReadsLongRope) {
  const nn::RopeParameters plain = parse(phi3()).ropes[0];
  EXPECT_EQ(plain.type, nn::RopeType::kDefault);
  EXPECT_EQ(plain.partial_rotary_factor, 1);
  const auto pairs = static_cast<std::size_t>(parse(phi3()).head_dim / 2);
  Json json = with(with(phi3(), "rope_scaling", longrope(pairs)), "original_max_position_embeddings", 128);
  const nn::RopeParameters rope = parse(json).ropes[0];
  EXPECT_EQ(rope.type, nn::RopeType::kLongRope);
  EXPECT_EQ(rope.original_max_position_embeddings, 128);
  EXPECT_EQ(rope.long_factor, std::vector<double>(pairs, 4));
  EXPECT_DOUBLE_EQ(rope.attention_factor, std::sqrt(1 + std::log(512.0 / 128) / std::log(128.0)));
  json["rope_scaling"]["attention_factor"] = 1.25;
  json["rope_scaling"]["short_factor"] = json["rope_scaling"]["long_factor"] = std::vector<double>(pairs / 2, 2);
  json["partial_rotary_factor"] = 0.5;
  const nn::RopeParameters half = parse(json).ropes[0];
  EXPECT_EQ(half.attention_factor, 1.25);
  EXPECT_EQ(half.partial_rotary_factor, 0.5);
  EXPECT_FALSE(half.is_long(128));
  EXPECT_TRUE(half.is_long(129));
}

TEST(ModelConfig, RefusesFaultsOfLongRope) {
  const auto pairs = static_cast<std::size_t>(parse(phi3()).head_dim / 2);
  const auto refused = [&](const char* key, const Json& value) {
    return refusal(with(phi3(), "rope_scaling", with(longrope(pairs), key, value)));
  };
  const std::vector<double> too_many(pairs + 1, 1), zeros(pairs, 0);
  for (const Json& wrong : {Json(), Json(2), Json(too_many), Json(zeros)})
    EXPECT_THAT(refused("long_factor", wrong),
                HasSubstr("rope_scaling.long_factor is " + brief(wrong) + "; expected " + std::to_string(pairs) +
                          " positive numbers, one for each pair of rotating dimensions"));
  EXPECT_THAT(refused("original_max_position_embeddings", 128), HasSubstr("is 128, but 4096 outside"));
  EXPECT_THAT(refusal(with(phi3(), "partial_rotary_factor", 0.01)), HasSubstr("partial_rotary_factor is 0.01: 0 of"));
  EXPECT_THAT(refusal(with(phi3(), "rope_scaling", {{"type", "linear"}, {"factor", 2}})),
              Says("rope_scaling.type...\"linear\"...default, longrope, su"));
}

TEST(ModelConfig, RefusesRopeTypesByName) {
  const std::string message = refusal(with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 4}}));
  EXPECT_THAT(message, Says("m/config.json: rope_scaling.type...\"yarn\"...default, linear, llama3"));
}

struct Refused {
  std::string name, key;
  Json value;
  std::string message;
  std::string model_type = "llama";
};

class RefusedKeys : public ::testing::TestWithParam<Refused> {};

TEST_P(RefusedKeys, AreNamed) {
  const Refused& c = GetParam();
  Json config = with(llama(), "model_type", c.model_type);
  config.erase("architectures");
  EXPECT_THAT(refusal(with(config, c.key, c.value)), AllOf(HasSubstr("m/config.json: " + c.key), HasSubstr(c.message)));
}

INSTANTIATE_TEST_SUITE_P(
    Table, RefusedKeys,
    ::testing::Values(
        Refused{"Unknown", "residual_multiplier", 0.22, "is 0.22, a key that this build does not know"},
        Refused{"UnknownNull", "layer_scale", nullptr, "is null, a key that this build does not know"},
        Refused{"Activation", "hidden_act", "gelu", "is \"gelu\"; this build knows \"silu\", \"swish\" only"},
        Refused{"Dropout", "attention_dropout", 1.5, "is 1.5; expected a probability"},
        Refused{"DropoutText", "resid_pdrop", "0.1", "is \"0.1\"; expected a probability"},
        Refused{"TensorParallel", "pretraining_tp", 2, "is 2; this build knows 1 only"},
        Refused{"PartialRotary", "partial_rotary_factor", 0.5, "This model_type rotates whole heads"},
        Refused{"Quantized", "quantization_config", Json::object({{"bits", 4}}), "Quantized weights are not supported"},
        Refused{"Interleaved", "rope_interleaved", true, "Interleaved rotary positions"},
        Refused{"Class", "architectures", Json::array({"LlamaForSequenceClassification"}),
                "expected [\"LlamaForCausalLM\"]"},
        Refused{"EncoderDecoder", "is_encoder_decoder", true, "Only the standard architecture is supported"},
        Refused{"PerLayer", "per_layer_config", Json::object({{"0", 1}}), "Layers of different sizes"},
        Refused{"Layers", "num_hidden_layers", 0, "is 0; expected an integer from 1 to"},
        Refused{"NegativeHidden", "hidden_size", -64, "is -64; expected an integer from 1 to"},
        Refused{"HugeHidden", "hidden_size", 1LL << 40, "expected an integer from 1 to 1048576"},
        Refused{"HugestHidden", "hidden_size", 18446744073709551615ULL, "expected an integer from 1 to 1048576"},
        Refused{"FractionHidden", "hidden_size", 64.5, "is 64.5; expected an integer"},
        Refused{"TextHidden", "hidden_size", "64", "is \"64\"; expected an integer"},
        Refused{"NullHidden", "hidden_size", nullptr, "is null; expected an integer"},
        Refused{"HugeVocabulary", "vocab_size", 1LL << 31, "expected an integer from 1 to 2147483647"},
        Refused{"IndivisibleHidden", "hidden_size", 60, "is 60, not a multiple of num_attention_heads, 8"},
        Refused{"IndivisibleHeads", "num_attention_heads", 9, "is 9, not a multiple of num_key_value_heads, 2"},
        Refused{"OddHeadDim", "head_dim", 7, "is 7; rotary positions need an even number"},
        Refused{"Epsilon", "rms_norm_eps", 0, "is 0; expected a number above 0"},
        Refused{"TextEpsilon", "rms_norm_eps", "1e-5", "expected a number above 0"},
        Refused{"Theta", "rope_theta", -1, "is -1; expected a number above 0"},
        Refused{"Tied", "tie_word_embeddings", 1, "is 1; expected true or false"},
        Refused{"Eos", "eos_token_id", Json::array({2, "x"}), "expected an integer from 0"},
        Refused{"EosBeyondTheVocabulary", "eos_token_id", 300, "is 300; expected an integer from 0 to 299"},
        Refused{"EosListBeyondTheVocabulary", "eos_token_id", Json::array({2, 999}),
                "expected an integer from 0 to 299"},
        Refused{"NegativeEos", "eos_token_id", -1, "is -1; expected an integer from 0 to 299"},
        Refused{"RopeText", "rope_scaling", "yarn", "expected an object"},
        Refused{"LlamaWindow", "sliding_window", 5, "a key that this build does not know"},
        Refused{"MistralWindow", "sliding_window", 0, "is 0; expected an integer from 1 to", "mistral"},
        Refused{"LayerTypesLength", "layer_types", Json::array({"full_attention"}),
                "has 1 entries; num_hidden_layers is 4", "qwen3"},
        Refused{"QwenBias", "attention_bias", true, "a key that this build does not know", "qwen2"},
        Refused{"Mrope", "use_mrope", true, "Multimodal rotary positions", "qwen2"}),
    [](const auto& instance) { return instance.param.name; });

TEST(ModelConfig, RefusesFaultsInsideRope) {
  const auto of = [](const Json& scaling) {
    return refusal(with(with(llama(), "rope_theta", 1e4), "rope_parameters", scaling));
  };
  EXPECT_THAT(of({{"rope_type", "linear"}}), HasSubstr("rope_parameters.factor is missing"));
  EXPECT_THAT(of({{"rope_type", "default"}, {"mrope_section", {1, 2}}}),
              Says("rope_parameters.mrope_section...[1,2]...not know"));
  EXPECT_THAT(of({{"rope_type", "default"}, {"type", "linear"}}),
              HasSubstr("rope_parameters.type is \"linear\" but rope_type"));
  EXPECT_THAT(of({{"rope_type", "default"}, {"rope_theta", 5}}),
              HasSubstr("rope_parameters.rope_theta is 5, but 10000 outside"));
  EXPECT_THAT(of({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}),
              HasSubstr("rope_parameters.partial_rotary_factor is 0.5"));
  EXPECT_THAT(of({{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}),
              Says("rope_parameters.high_freq_factor...4; expected more than low_freq_factor...4"));
  EXPECT_THAT(of({{"full_attention", {{"rope_type", "default"}}}}), HasSubstr("rope_parameters.full_attention is"));
  const Json both = with(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2}}), "rope_parameters",
                         {{"rope_type", "linear"}, {"factor", 3}});
  EXPECT_THAT(refusal(both), HasSubstr("rope_scaling and rope_parameters are both given and differ"));
}

TEST(ModelConfig, RefusesWindowsThatContradictEachOther) {
  Json qwen = of_type("qwen3", "Qwen3ForCausalLM");
  qwen["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
  EXPECT_THAT(refusal(qwen), Says("layer_types[1]...\"sliding_attention\"...use_sliding_window...false"));
  qwen["layer_types"][1] = "linear_attention";
  EXPECT_THAT(refusal(qwen), HasSubstr("layer_types[1] is \"linear_attention\"; this build knows"));
  Json mistral = with(of_type("mistral", "MistralForCausalLM"), "sliding_window", 8);
  mistral["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
  EXPECT_THAT(refusal(mistral), HasSubstr("layer_types mixes full and sliding attention"));
}

// What transformers, or a trainer, writes for every model, and features of other architectures that are off.
TEST(ModelConfig, IgnoresWhatHasNoEffect) {
  const Json code = {{"AutoModel", "modeling_x.Y"}};
  const std::vector<std::pair<std::string, Json>> cases = {
      {"pad_token_id", -1},        {"bos_token_id", -1},          {"bos_token_id", 100000},
      {"bos_token_id", nullptr},   {"max_sequence_length", 2048}, {"max_seq_len", 7},
      {"sliding_window", nullptr}, {"use_sliding_window", false}, {"max_window_layers", 28},
      {"attention_bias", false},   {"mlp_bias", false},           {"attention_bias", nullptr},
      {"pretraining_tp", 1},       {"use_qk_norm", false},        {"rope_interleaved", false},
      {"resid_pdrop", 0.0},        {"hidden_dropout", 0},         {"final_logit_softcapping", nullptr},
      {"num_experts", nullptr},    {"is_causal", true},           {"gradient_checkpointing", true},
      {"auto_map", code},          {"use_flash_attention", true}};
  const std::pair<const char*, const char*> kTypes[] = {{"llama", "LlamaForCausalLM"},
                                                        {"mistral", "MistralForCausalLM"},
                                                        {"qwen2", "Qwen2ForCausalLM"},
                                                        {"qwen3", "Qwen3ForCausalLM"}};
  for (const auto& [type, class_name] : kTypes) {
    Json plain = of_type(type, class_name);
    plain["sliding_window"] = nullptr;
    const ModelConfig expected = parse(plain);
    for (const auto& [key, value] : cases) {
      SCOPED_TRACE(fmt::format("{}: {} {}", type, key, value.dump()));
      ModelConfig found;
      ASSERT_NO_THROW(found = parse(with(plain, key, value)));
      EXPECT_EQ(test::windows_of(found), test::windows_of(expected));
      EXPECT_EQ(found.max_position_embeddings, expected.max_position_embeddings);
      EXPECT_EQ(num_parameters(found), num_parameters(expected));
      for (const char* name : {"self_attn.o_proj.bias", "mlp.up_proj.bias"})
        EXPECT_FALSE(test::has_parameter(found, name)) << name;
    }
  }
}

TEST(ModelConfig, RefusesAFeatureOfAnotherArchitectureThatIsOn) {
  for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{{"sliding_window", 4096},
                                                                            {"use_sliding_window", true},
                                                                            {"use_qk_norm", true},
                                                                            {"num_experts", 8},
                                                                            {"final_logit_softcapping", 30.0},
                                                                            {"residual_multiplier", 0.22}})
    EXPECT_THAT(refusal(with(llama(), key, value)), HasSubstr("m/config.json: " + key + " is")) << key;
}

TEST(ModelConfig, NamesDropoutWhichOnlyTrainingWouldApply) {
  EXPECT_THAT(parse_model_config(llama(), "m/config.json").dropout, ::testing::IsEmpty());
  const Json config = with(with(llama(), "attention_dropout", 0.1), "resid_pdrop", 0.25);
  EXPECT_THAT(parse_model_config(config, "m/config.json").dropout,
              ::testing::ElementsAre("attention_dropout 0.1", "resid_pdrop 0.25"));
  EXPECT_THAT(parse(with(with(phi3(), "resid_pdrop", 0.1), "embd_pdrop", 0.2)).dropout,
              ::testing::ElementsAre("embd_pdrop 0.2", "resid_pdrop 0.1"));
}

TEST(ModelConfig, ReportsEveryProblemAtOnce) {
  Json config = with(with(llama(), "hidden_act", "relu"), "some_new_key", 1);
  config.erase("vocab_size");
  EXPECT_THAT(refusal(config),
              AllOf(HasSubstr("m/config.json: hidden_act is"), HasSubstr("m/config.json: some_new_key is 1"),
                    HasSubstr("m/config.json: vocab_size is missing")));
}

TEST(ModelConfig, RefusesOtherArchitectures) {
  EXPECT_THAT(refusal(with(llama(), "model_type", "gpt2")),
              Says("m/config.json: model_type...\"gpt2\"...llama, mistral, qwen2, qwen3"));
  EXPECT_THAT(refusal(with(llama(), "model_type", nullptr)), HasSubstr("model_type is missing"));
  EXPECT_THAT(refusal(Json::array()), HasSubstr("expected a JSON object"));
}

TEST(ModelConfig, CutsLongValuesInMessages) {
  EXPECT_THAT(refusal(with(llama(), "strange", std::string(5000, 'x'))),
              AllOf(HasSubstr("xxx..."), Not(HasSubstr(std::string(200, 'x')))));
}

TEST(ModelConfig, ReportsAMissingFile) { EXPECT_THROW(read_model_config("/nonexistent/model"), DataError); }

TEST(ModelKinds, OfTheTestsIncludeEveryArchitecture) {
  std::set<std::string_view> types;
  for (const std::string& kind : test::all_model_kinds())
    types.insert(find_architecture(test::tiny_config(test::config_of_kind(kind)).model_type)->model_type);
  EXPECT_EQ(types.size(), known_architectures().size());
}

}  // namespace
}  // namespace adept::model
