#include "adept/model/gguf/config.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <numbers>

#include "adept/model/config.h"
#include "tests/support/reads.h"
#include "tests/unit/model/import_gguf_support.h"
#include "tests/unit/model/random_model.h"

namespace adept::model {
namespace {

using gguf_test::GgufBuilder;
using gguf_test::model_of;
using gguf_test::refusal;
using gguf_test::tiny_model;
using test::Says;
using testing::AllOf;
using testing::HasSubstr;

TEST(ImportGgufConfig, EveryArchitectureGivesAConfigThatTheDecoderReads) {
  for (const char* name : {"llama", "mistral", "qwen2", "qwen3"}) {
    const GgufModel model = model_of(tiny_model(name));
    const ModelConfig config = parse_model_config(model.config, "config.json");
    EXPECT_EQ(config.model_type, name);
    EXPECT_EQ(config.num_hidden_layers, 1) << name;
    EXPECT_EQ(config.hidden_size, 8) << name;
    EXPECT_EQ(config.intermediate_size, 12) << name;
    EXPECT_EQ(config.num_attention_heads, 2) << name;
    EXPECT_EQ(config.num_key_value_heads, 1) << name;
    EXPECT_EQ(config.head_dim, 4) << name;
    EXPECT_EQ(config.vocab_size, 270) << name;
    EXPECT_EQ(config.max_position_embeddings, 64) << name;
    EXPECT_EQ(config.rms_norm_eps, 1e-5) << name;
    EXPECT_EQ(config.ropes[0].theta, 10000.0) << name;
    EXPECT_FALSE(config.tie_word_embeddings) << name;
    EXPECT_EQ(test::has_parameter(config, "self_attn.q_proj.bias"), std::string(name) == "qwen2") << name;
    EXPECT_FALSE(test::has_parameter(config, "self_attn.o_proj.bias")) << name;
    EXPECT_EQ(test::has_parameter(config, "self_attn.q_norm.weight"), std::string(name) == "qwen3") << name;
    EXPECT_THAT(config.eos_token_ids, testing::ElementsAre(260)) << name;
  }
}

TEST(ImportGgufConfig, AMissingHeadIsATiedOne) {
  EXPECT_TRUE(model_of(tiny_model().remove_tensor("output.weight")).config["tie_word_embeddings"].get<bool>());
}

TEST(ImportGgufConfig, OptionalKeysHaveTheDefaultsOfLlamaCpp) {
  GgufBuilder builder = tiny_model();
  builder.remove("llama.rope.freq_base").remove("llama.attention.head_count_kv");
  builder.remove_tensor("blk.0.attn_k.weight").remove_tensor("blk.0.attn_v.weight");
  gguf_test::add_counting(builder, "blk.0.attn_k.weight", {8, 8}, 0);
  gguf_test::add_counting(builder, "blk.0.attn_v.weight", {8, 8}, 0);
  const GgufModel model = model_of(builder);
  EXPECT_EQ(model.config["rope_theta"], 10000.0);
  EXPECT_EQ(model.config["num_key_value_heads"], 2);
}

TEST(ImportGgufConfig, MissingTokenIdsAreNullInsteadOfTheDefaultsOfTransformers) {
  const GgufModel model = model_of(tiny_model());
  EXPECT_TRUE(model.config["bos_token_id"].is_null());
  EXPECT_EQ(model.generation_config, (Json{{"eos_token_id", 260}}));
}

TEST(ImportGgufConfig, AHeadMayHaveASizeOfItsOwn) {
  GgufBuilder builder = tiny_model("qwen3");
  builder.set("qwen3.attention.key_length", std::uint32_t{16}).set("qwen3.attention.value_length", std::uint32_t{16});
  EXPECT_EQ(model_of(builder).config["head_dim"], 16);
}

TEST(ImportGgufConfig, BiasesOfLlamaAreRead) {
  GgufBuilder builder = tiny_model();
  gguf_test::add_counting(builder, "blk.0.attn_q.bias", {8}, 0);
  gguf_test::add_counting(builder, "blk.0.attn_k.bias", {4}, 0);
  gguf_test::add_counting(builder, "blk.0.attn_v.bias", {4}, 0);
  EXPECT_THAT(refusal(builder), HasSubstr("has no tensor \"blk.0.attn_output.bias\", which llama needs"));
  gguf_test::add_counting(builder, "blk.0.attn_output.bias", {8}, 0);
  const GgufModel model = model_of(builder);
  EXPECT_EQ(refusal(builder), "(no DataError)");
  EXPECT_TRUE(model.config["attention_bias"].get<bool>());
  EXPECT_FALSE(model.config["mlp_bias"].get<bool>());
}

TEST(ImportGgufConfig, LinearScalingIsKept) {
  GgufBuilder builder = tiny_model();
  builder.set("llama.rope.scaling.type", "linear").set("llama.rope.scaling.factor", 2.5f);
  EXPECT_EQ(model_of(builder).config["rope_scaling"], (Json{{"rope_type", "linear"}, {"factor", 2.5}}));
  builder.set("llama.rope.scaling.type", "none");
  EXPECT_TRUE(model_of(builder).config["rope_scaling"].is_null());
  builder.remove("llama.rope.scaling.type").remove("llama.rope.scaling.factor").set("llama.rope.scale_linear", 4.0f);
  EXPECT_EQ(model_of(builder).config["rope_scaling"]["factor"], 4.0);
}

// As the converter of llama.cpp computes them, in fp32.
std::vector<float> llama3_factors(int head_dim, float theta, float factor, float low, float high, float context) {
  std::vector<float> factors;
  for (int i = 0; i < head_dim; i += 2) {
    const float frequency = 1.0f / std::pow(theta, static_cast<float>(i) / static_cast<float>(head_dim));
    const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
    const float smooth = (context / wavelength - low) / (high - low);
    if (wavelength < context / high)
      factors.push_back(1);
    else if (wavelength > context / low)
      factors.push_back(factor);
    else
      factors.push_back(1 / ((1 - smooth) / factor + smooth));
  }
  return factors;
}

TEST(ImportGgufConfig, Llama3ScalingIsRecoveredFromItsFactors) {
  struct Case {
    int head_dim;
    float theta, factor, low, high;
    int context;
  };
  for (const Case& c : {Case{128, 5e5f, 8, 1, 4, 8192}, Case{64, 5e5f, 32, 1, 4, 8192}, Case{64, 1e4f, 4, 1, 4, 2048},
                        Case{128, 1e6f, 16, 1, 8, 32768}, Case{64, 5e5f, 2.5f, 2, 3, 4096}}) {
    std::vector<std::string> problems;
    const std::vector<float> factors =
        llama3_factors(c.head_dim, c.theta, c.factor, c.low, c.high, static_cast<float>(c.context));
    const Json scaling = recover_llama3_scaling(factors, static_cast<double>(c.theta), problems);
    ASSERT_THAT(problems, testing::IsEmpty());
    EXPECT_EQ(scaling, (Json{{"rope_type", "llama3"},
                             {"factor", c.factor},
                             {"low_freq_factor", c.low},
                             {"high_freq_factor", c.high},
                             {"original_max_position_embeddings", c.context}}));
  }
}

TEST(ImportGgufConfig, OtherRotaryFactorsAreRefused) {
  for (const std::size_t changed : {0u, 20u, 40u, 63u}) {
    std::vector<float> factors = llama3_factors(128, 5e5f, 8, 1, 4, 8192);
    factors[changed] *= 1.0001f;
    std::vector<std::string> problems;
    EXPECT_TRUE(recover_llama3_scaling(factors, 5e5, problems).is_null());
    EXPECT_THAT(problems, testing::ElementsAre(HasSubstr("are not those of any llama3 scaling"))) << changed;
  }
  std::vector<std::string> problems;
  EXPECT_TRUE(recover_llama3_scaling(std::vector<float>(64, 1.0f), 1e4, problems).is_null());
  EXPECT_THAT(problems, testing::IsEmpty()) << "factors of 1 scale nothing";
  for (const float bad : {0.0f, -1.0f, NAN, INFINITY}) {
    std::vector<std::string> faults;
    recover_llama3_scaling(std::vector<float>(64, bad), 1e4, faults);
    EXPECT_EQ(faults.size(), 1u) << bad;
  }
}

TEST(ImportGgufConfig, TheTensorOfRotaryFactorsBecomesConfig) {
  GgufBuilder builder = tiny_model();
  builder.add_f32("rope_freqs.weight", {2}, {1.0f, 8.0f});
  EXPECT_EQ(model_of(builder).config["rope_scaling"]["rope_type"], "llama3");
  EXPECT_EQ(refusal(builder), "(no DataError)");
  builder.set("llama.rope.scaling.factor", 2.0f);
  EXPECT_THAT(refusal(builder), HasSubstr("only one can be expressed"));
  builder = tiny_model();
  builder.add_f32("rope_freqs.weight", {3}, {1, 1, 1});
  EXPECT_THAT(refusal(builder), HasSubstr("\"rope_freqs.weight\" is F32 [3]; expected [2]"));
}

// Two of the four dimensions of a head rotate.
GgufBuilder longrope_model(const std::vector<const char*>& lengths) {
  GgufBuilder builder = tiny_model("phi3");
  builder.set("phi3.rope.dimension_count", std::uint32_t{2}).set("phi3.rope.scaling.attn_factor", 1.25f);
  builder.set("phi3.rope.scaling.original_context_length", std::uint32_t{16});
  for (const char* length : lengths) builder.add_f32(std::string("rope_factors_") + length + ".weight", {1}, {2.5f});
  return builder;
}

TEST(ImportGgufConfig, LongRopeIsKept) {
  const Json config = model_of(longrope_model({"long", "short"})).config;
  EXPECT_EQ(config["partial_rotary_factor"], 0.5);
  EXPECT_EQ(config["original_max_position_embeddings"], 16);
  EXPECT_EQ(config["rope_scaling"],
            Json::parse(
                R"({"rope_type": "longrope", "short_factor": [2.5], "long_factor": [2.5], "attention_factor": 1.25})"));
  const GgufBuilder plain = tiny_model("phi3");
  EXPECT_TRUE(model_of(plain).config["rope_scaling"].is_null());
  EXPECT_EQ(model_of(plain).config["original_max_position_embeddings"], 64) << "the context's";
}

TEST(ImportGgufConfig, HalfALongRopeIsRefused) {
  EXPECT_THAT(refusal(longrope_model({"long"})), Says("one of the tensors \"rope_factors_short.weight\" and"));
  EXPECT_THAT(refusal(longrope_model({})),
              Says("\"phi3.rope.scaling.attn_factor\"...no tensor \"rope_factors_long.weight\""));
  GgufBuilder builder = longrope_model({"long"});
  builder.add_f32("rope_factors_short.weight", {2}, {1, 2});
  EXPECT_THAT(refusal(builder), Says("\"rope_factors_short.weight\"...F32 [2]; expected [1]"));
  GgufBuilder llama = tiny_model();
  llama.add_f32("rope_factors_long.weight", {2}, {1, 2});
  EXPECT_THAT(refusal(llama), HasSubstr("tensor \"rope_factors_long.weight\""));
}

TEST(ImportGgufConfig, ASlidingWindowIsKeptOrRefused) {
  GgufBuilder mistral = tiny_model("mistral");
  EXPECT_TRUE(model_of(mistral).config["sliding_window"].is_null());
  mistral.set("mistral.attention.sliding_window", std::uint32_t{16});
  EXPECT_EQ(model_of(mistral).config["sliding_window"], 16);
  for (const std::string name : {"llama", "qwen2", "qwen3"}) {
    GgufBuilder builder = tiny_model(name);
    builder.set(name + ".attention.sliding_window", std::uint32_t{64});
    EXPECT_EQ(refusal(builder), "(no DataError)") << "a window as long as the context";
    builder.set(name + ".attention.sliding_window", std::uint32_t{16});
    EXPECT_THAT(refusal(builder), HasSubstr("attention.sliding_window\" is 16, shorter than the context of 64"));
  }
}

TEST(ImportGgufConfig, KeysWithoutEffectAreAccepted) {
  GgufBuilder builder = tiny_model();
  builder.set("llama.expert_count", std::uint32_t{0})
      .set("llama.logit_scale", 1.0f)
      .set("llama.attention.causal", true);
  builder.set("llama.attention.scale", 0.5f).set("llama.rope.scaling.finetuned", true);  // 0.5 is 1 / sqrt(4)
  builder.set("llama.tensor_data_layout", "Meta AI original pth").set("general.quantization_version", std::uint32_t{2});
  builder.set("general.base_model.0.name", "x")
      .set("quantize.imatrix.file", "y")
      .set("llama.rope.dimension_count", std::uint32_t{4});
  builder.set("llama.vocab_size", std::uint32_t{270}).set("split.count", std::uint16_t{1}).set("general.type", "model");
  builder.set("llama.attention.head_count_kv", std::vector<std::int32_t>{1, 1});
  EXPECT_EQ(refusal(builder), "(no DataError)");
}

TEST(ImportGgufConfig, ScalesOfAGraniteHaveTheDefaultsOfLlamaCpp) {
  GgufBuilder builder = tiny_model("granite");
  builder.set("granite.attention.scale", 0.0f).set("granite.embedding_scale", 12.0f);
  const Json unset = model_of(builder).config;
  EXPECT_EQ(unset["attention_multiplier"], 0.5) << "1 / sqrt(head_dim), of which 0 is the sign";
  EXPECT_EQ(unset["embedding_multiplier"], 12.0);
  EXPECT_EQ(unset["residual_multiplier"], 1.0);
  EXPECT_EQ(unset["logits_scaling"], 1.0);
  builder.set("granite.attention.scale", 0.25f).set("granite.residual_scale", -1.0f);
  EXPECT_THAT(refusal(builder), HasSubstr("\"granite.residual_scale\" is -1; expected a number above 0"));
}

TEST(ImportGgufConfig, SoftCapsAndWindowOfAGemma2HaveTheDefaultsOfLlamaCpp) {
  GgufBuilder builder = tiny_model("gemma2");
  const Json unset = model_of(builder).config;
  EXPECT_EQ(unset["attn_logit_softcapping"], 50.0);
  EXPECT_EQ(unset["final_logit_softcapping"], 30.0);
  EXPECT_EQ(unset["sliding_window"], 4096);
  EXPECT_EQ(unset["layer_types"], Json({"sliding_attention"}));
  EXPECT_EQ(unset["query_pre_attn_scalar"], 4);
  builder.set("gemma2.attn_logit_softcapping", 20.0f).set("gemma2.final_logit_softcapping", 10.0f);
  builder.set("gemma2.attention.sliding_window", std::uint32_t{16});
  const Json set = model_of(builder).config;
  EXPECT_EQ(set["attn_logit_softcapping"], 20.0);
  EXPECT_EQ(set["final_logit_softcapping"], 10.0);
  EXPECT_EQ(set["sliding_window"], 16);
}

TEST(ImportGgufConfig, RefusesByNameWhatItCannotExpress) {
  struct Case {
    std::function<void(GgufBuilder&)> edit;
    std::string message;
  };
  const std::vector<Case> cases = {
      {[](auto& b) { b.remove("general.architecture"); }, "no \"general.architecture\"; expected ...llama"},
      {[](auto& b) { b.set("general.architecture", "bert"); },
       "general.architecture...\"bert\"...llama, mistral, qwen2, qwen3, gemma3"},
      {[](auto& b) { b.set("general.type", "adapter"); }, "general.type is \"adapter\"; expected \"model\""},
      {[](auto& b) { b.set("general.quantization_version", std::uint32_t{1}); }, "quantization_version is 1"},
      {[](auto& b) { b.set("split.count", std::uint16_t{3}); }, "llama-gguf-split --merge"},
      {[](auto& b) { b.set("llama.expert_count", std::uint32_t{8}); },
       "\"llama.expert_count\" is 8: ...not implemented"},
      {[](auto& b) { b.set("llama.logit_scale", 0.5f); }, "\"llama.logit_scale\" is 0.5: this changes"},
      {[](auto& b) { b.set("llama.residual_scale", 0.2f); }, "\"llama.residual_scale\" is 0.2: this changes"},
      {[](auto& b) { b.set("llama.embedding_scale", 12.0f); }, "\"llama.embedding_scale\" is 12: this changes"},
      {[](auto& b) { b.set("llama.attention.scale", 0.25f); }, "\"llama.attention.scale\" is 0.25: this changes"},
      {[](auto& b) { b.set("llama.attn_logit_softcapping", 50.0f); }, "\"llama.attn_logit_softcapping\" is 50"},
      {[](auto& b) { b.set("llama.final_logit_softcapping", 30.0f); }, "\"llama.final_logit_softcapping\" is 30"},
      {[](auto& b) { b.set("llama.attention.causal", false); }, "\"llama.attention.causal\" is false: this changes"},
      {[](auto& b) { b.set("llama.use_parallel_residual", true); }, "\"llama.use_parallel_residual\" is true"},
      {[](auto& b) { b.set("llama.rope.scaling.attn_factor", 1.2f); }, "\"llama.rope.scaling.attn_factor\" is 1.2"},
      {[](auto& b) { b.set("llama.attention.temperature_scale", 0.1f); },
       "\"llama.attention.temperature_scale\" is 0.1: ...not known"},
      {[](auto& b) { b.set("llama.rope.scaling.type", "yarn"); },
       "\"llama.rope.scaling.type\"...\"yarn\"...none, linear, and llama3"},
      {[](auto& b) { b.set("llama.tensor_data_layout", "reference"); },
       "\"llama.tensor_data_layout\" is \"reference\""},
      {[](auto& b) { b.set("llama.rope.dimension_count", std::uint32_t{2}); },
       "\"llama.rope.dimension_count\" is 2: ...head, 4"},
      {[](auto& b) { b.set("llama.attention.value_length", std::uint32_t{8}); },
       "\"llama.attention.value_length\" is 8...4"},
      {[](auto& b) { b.set("llama.attention.head_count", std::uint32_t{3}); }, "8 is not a multiple of"},
      {[](auto& b) { b.set("llama.attention.head_count_kv", std::uint32_t{3}); },
       "2 query heads cannot be shared by 3"},
      {[](auto& b) { b.set("llama.attention.head_count_kv", std::vector<std::int32_t>{1, 2}); },
       "\"llama.attention.head_count_kv\" differs"},
      {[](auto& b) { b.set("llama.attention.head_count", std::uint32_t{0}); },
       "\"llama.attention.head_count\" is 0; expected 1 to 2147483647"},
      {[](auto& b) { b.set("llama.embedding_length", std::int64_t{-8}); }, "\"llama.embedding_length\" is -8"},
      {[](auto& b) { b.set("llama.block_count", std::uint32_t{1000000}); },
       "\"llama.block_count\" is 1000000...12 tensors"},
      {[](auto& b) { b.remove("llama.feed_forward_length"); }, "has no \"llama.feed_forward_length\", an integer"},
      {[](auto& b) { b.remove("llama.attention.layer_norm_rms_epsilon"); },
       "has no \"llama.attention.layer_norm_rms_epsilon\", a number"},
      {[](auto& b) { b.set("llama.attention.layer_norm_rms_epsilon", NAN); }, "is nan; expected a number above 0"},
      {[](auto& b) { b.set("llama.rope.freq_base", -1.0f); },
       "\"llama.rope.freq_base\" is -1; expected a number above 0"},
      {[](auto& b) { b.set("llama.block_count", "one"); }, "\"llama.block_count\" is a string; expected an integer"},
      {[](auto& b) { b.set("llama.vocab_size", std::uint32_t{32000}); },
       "\"llama.vocab_size\" is 32000...\"token_embd.weight\"...270 rows"},
      {[](auto& b) { b.set("tokenizer.ggml.bos_token_id", std::uint32_t{270}); },
       "tokenizer.ggml.bos_token_id is 270; expected 0 to 269"},
  };
  for (const Case& c : cases) {
    GgufBuilder builder = tiny_model();
    c.edit(builder);
    EXPECT_THAT(refusal(builder), AllOf(HasSubstr("x.gguf: "), Says(c.message)));
  }
}

TEST(ImportGgufConfig, ReportsAllProblemsAtOnce) {
  GgufBuilder builder = tiny_model();
  builder.set("llama.expert_count", std::uint32_t{8}).set("llama.expert_used_count", std::uint32_t{2});
  builder.set("llama.rope.scaling.type", "longrope");
  EXPECT_THAT(refusal(builder), AllOf(HasSubstr("3 problems:\n"), HasSubstr("expert_count"),
                                      HasSubstr("expert_used_count"), HasSubstr("longrope")));
}

}  // namespace
}  // namespace adept::model
