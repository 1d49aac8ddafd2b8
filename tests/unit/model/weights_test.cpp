#include "adept/model/weights.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

#include "adept/core/error.h"
#include "adept/model/load.h"
#include "adept/model/save.h"
#include "adept/model/torch_tensors.h"
#include "tests/support/reads.h"
#include "tests/support/save_model.h"
#include "tests/unit/model/random_model.h"

namespace adept::model {
namespace {

using test::Reads;
using test::Says;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class ModelDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    directory_ = std::filesystem::temp_directory_path() /
                 ("adept_weights_" + std::string(info->name()) + std::to_string(getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  /// Tensors of a tiny model under their names; a test may damage them before they are written.
  std::map<std::string, at::Tensor> tensors(const ModelConfig& config) const {
    Weights weights = test::random_weights(config);
    std::map<std::string, at::Tensor> result;
    for (const Parameter& parameter : named_parameters(config, weights)) result[parameter.name] = *parameter.tensor;
    return result;
  }

  void write(const std::map<std::string, at::Tensor>& tensors) const {
    std::vector<io::TensorView> views;
    for (const auto& [name, tensor] : tensors) views.push_back(as_view(name, tensor));
    io::write_weight_files(directory_, views);
  }

  std::string refusal(const ModelConfig& config) const {
    try {
      load_weights(config, io::WeightFiles::open(directory_));
    } catch (const DataError& error) {
      return error.what();
    }
    return "(accepted)";
  }

  std::filesystem::path directory_;
};

TEST(NameTable, ListsEveryTensorOnceWithItsShape) {
  Json json = test::tiny_config_json("llama");
  json["attention_bias"] = true;
  json["mlp_bias"] = true;
  const ModelConfig config = test::tiny_config(json);
  Weights weights;
  std::set<std::string> names;
  std::set<const at::Tensor*> slots;
  for (const Parameter& parameter : named_parameters(config, weights)) {
    EXPECT_TRUE(names.insert(parameter.name).second) << parameter.name;
    EXPECT_TRUE(slots.insert(parameter.tensor).second) << parameter.name;
  }
  EXPECT_EQ(names.size(), 3U + 3 * (9 + 7));
  EXPECT_TRUE(names.contains("model.layers.2.mlp.down_proj.bias"));
  EXPECT_TRUE(names.contains("lm_head.weight"));
}

TEST(NameTable, OfALayerHoldsItsUnits) {
  const ModelConfig config = test::tiny_config(test::tiny_config_json("qwen3"));
  Weights weights = test::random_weights(config);
  const auto table = layer_parameters(weights, 1);
  std::vector<std::string> units;
  for (const Parameter& parameter : table) units.push_back(parameter.local_name);
  EXPECT_THAT(units, ElementsAre("input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                 "self_attn.v_proj.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight",
                                 "self_attn.o_proj.weight", "post_attention_layernorm.weight", "mlp.gate_proj.weight",
                                 "mlp.up_proj.weight", "mlp.down_proj.weight"));
  EXPECT_EQ(table[4].name, "model.layers.1.self_attn.q_norm.weight");
  EXPECT_THAT(table[4].shape, ElementsAre(4));
  EXPECT_EQ(table[1].tensor, &weights.layers[1].attention.body.inputs[0].linear.weight);
}

TEST(NameTable, NamesGoBothWays) {
  std::int64_t layer = -1;
  std::string unit;
  EXPECT_EQ(layer_parameter_name(12, "mlp.up_proj.weight"), "model.layers.12.mlp.up_proj.weight");
  EXPECT_TRUE(split_layer_parameter_name("model.layers.12.mlp.up_proj.weight", layer, unit));
  EXPECT_EQ(layer, 12);
  EXPECT_EQ(unit, "mlp.up_proj.weight");
  for (const char* name : {"model.norm.weight", "model.layers.", "model.layers.x.y", "model.layers.-1.y",
                           "model.layers.3", "model.layers.99999999999999999999.y"}) {
    EXPECT_FALSE(split_layer_parameter_name(name, layer, unit)) << name;
  }
}

TEST(NameTable, CountsATiedHeadOnce) {
  Json json = test::tiny_config_json();
  const std::int64_t untied = num_parameters(test::tiny_config(json));
  json["tie_word_embeddings"] = true;
  EXPECT_EQ(untied - num_parameters(test::tiny_config(json)), 53 * 24);
}

struct RoleCase {
  std::string local_name;
  Role role;
  Axis axis = Axis::kNone;
  std::int64_t dim = 0;
};

TEST(NameTable, SaysWhatEachParameterDoes) {
  Json json = test::tiny_config_json("llama");
  json["attention_bias"] = json["mlp_bias"] = true;
  const ModelConfig config = test::tiny_config(json);
  Weights slots;
  named_parameters(config, slots);
  std::map<std::string, Parameter> found;
  for (const Parameter& p : layer_parameters(slots, 2)) found[p.local_name] = p;
  for (const RoleCase& c : std::vector<RoleCase>{{"input_layernorm.weight", Role::kNorm},
                                                 {"self_attn.q_proj.weight", Role::kProjection, Axis::kHead},
                                                 {"self_attn.v_proj.bias", Role::kProjection, Axis::kHead},
                                                 {"self_attn.o_proj.weight", Role::kResidualOutput, Axis::kHead, 1},
                                                 {"self_attn.o_proj.bias", Role::kResidualOutput},
                                                 {"mlp.up_proj.weight", Role::kProjection, Axis::kNeuron},
                                                 {"mlp.down_proj.weight", Role::kResidualOutput, Axis::kNeuron, 1},
                                                 {"mlp.down_proj.bias", Role::kResidualOutput}}) {
    const Parameter& p = found.at(c.local_name);
    EXPECT_EQ(p.role, c.role) << c.local_name;
    EXPECT_EQ(p.slices.axis, c.axis) << c.local_name;
    EXPECT_EQ(p.slices.dim, c.dim) << c.local_name;
    EXPECT_EQ(p.layer, 2);
  }
  EXPECT_EQ(found.at("self_attn.q_proj.weight").slices.size, 4);
  EXPECT_EQ(found.at("self_attn.q_proj.weight").gguf_name, "blk.2.attn_q.weight");
  EXPECT_EQ(found.at("self_attn.k_proj.weight").gguf_heads, 2);
}

// METHOD.md, section 8: zero matrices in front of a norm would make its gradient some 1000 times too large.
TEST(NameTable, TheGainOfANormBehindABranchIsItsResidualOutput) {
  ModelConfig config = test::tiny_config();
  for (Layer& layer : config.layers) {
    layer.attention.post_norm = {.name = "after", .gguf_name = "after", .width = 24, .eps = 1e-5};
    layer.attention.post_norm->gain = nn::GainConvention::kOnePlus;
  }
  Weights slots;
  named_parameters(config, slots);
  std::vector<std::string> names;
  for (const Parameter& p : residual_outputs(slots, 1)) names.push_back(p.name);
  EXPECT_THAT(names, ElementsAre("model.layers.1.after.weight", "model.layers.1.mlp.down_proj.weight"));
  EXPECT_EQ(residual_outputs(slots, 1).front().offset, 1);
}

TEST_F(ModelDirectory, LoadsWithoutACopyWhereTheTypeMatches) {
  const ModelConfig config = test::tiny_config();
  const auto expected = tensors(config);
  write(expected);
  Weights weights;
  {
    const auto files = io::WeightFiles::open(directory_);
    weights = load_weights(config, files);
    EXPECT_EQ(weights.norm.weight.const_data_ptr(), files.at("model.norm.weight").data.data());
  }
  for (const Parameter& parameter : named_parameters(config, weights)) {  // the mapping outlives `files`
    EXPECT_TRUE(parameter.tensor->equal(expected.at(parameter.name))) << parameter.name;
  }
}

TEST_F(ModelDirectory, ConvertsToTheComputeType) {
  const ModelConfig config = test::tiny_config();
  auto expected = tensors(config);
  for (auto& [name, tensor] : expected) tensor = tensor.to(at::kHalf);
  write(expected);
  const Weights weights = load_weights(config, io::WeightFiles::open(directory_), {.dtype = at::kBFloat16});
  EXPECT_TRUE(weights.embed_tokens.weight.equal(expected.at("model.embed_tokens.weight").to(at::kBFloat16)));
}

TEST_F(ModelDirectory, KeepsMatricesInTheNarrowerTypeOfTheFile) {
  const ModelConfig config = test::tiny_config();
  for (const at::ScalarType stored : {at::kBFloat16, at::kHalf}) {
    auto expected = tensors(config);
    for (auto& [name, tensor] : expected) tensor = tensor.to(stored);
    std::filesystem::remove(directory_ / "model.safetensors");
    write(expected);
    const auto files = io::WeightFiles::open(directory_);
    Weights kept = load_weights(config, files), widened = load_weights(config, files, {.widen_matrices = true});
    for (const Parameter& parameter : named_parameters(config, kept)) {
      EXPECT_EQ(parameter.tensor->scalar_type(), parameter.shape.size() == 2 ? stored : at::kFloat) << parameter.name;
      EXPECT_TRUE(parameter.tensor->equal(expected.at(parameter.name).to(parameter.tensor->scalar_type())));
    }
    for (const Parameter& parameter : named_parameters(config, widened))
      EXPECT_TRUE(parameter.tensor->equal(expected.at(parameter.name).to(at::kFloat))) << parameter.name;
  }
}

TEST_F(ModelDirectory, NamesEveryWrongTensorAtOnce) {
  const ModelConfig config = test::tiny_config();
  auto damaged = tensors(config);
  damaged.erase("model.layers.1.mlp.up_proj.weight");
  damaged["model.layers.0.self_attn.q_proj.weight"] = at::zeros({24, 23});
  damaged["model.layers.2.self_attn.q_proj.bias"] = at::zeros({24});
  damaged["model.norm.weight"] = at::zeros({24}, at::kInt);
  write(damaged);
  EXPECT_THAT(refusal(config), AllOf(Says("model.layers.1.mlp.up_proj.weight...missing...config.json...[36, 24]"),
                                     Says("model.layers.0.self_attn.q_proj.weight...[24, 23]...config.json...[24, 24]"),
                                     Says("model.layers.2.self_attn.q_proj.bias is not ..."),
                                     Says("model.norm.weight...I32...F32, BF16, F16"), HasSubstr(directory_.string())));
}

TEST_F(ModelDirectory, ShowsTwentyProblemsAndCountsTheRest) {
  const ModelConfig config = test::tiny_config();
  write({{"model.norm.weight", at::zeros({24})}});
  EXPECT_THAT(refusal(config), AllOf(HasSubstr("... and 9 more"), HasSubstr("do not match this config.json")));
}

// What torch.compile, data parallelism, PEFT and others make of the names.
TEST_F(ModelDirectory, NamesWhatSetsAllNamesApart) {
  const ModelConfig config = test::tiny_config();
  struct Case {
    std::string prefix, inside, message;
  };
  const std::vector<Case> cases = {
      {"_orig_mod.", "",
       "prefix \"_orig_mod.\"..._orig_mod.lm_head.weight for lm_head.weight...torch.compile...model._orig_mod"},
      {"module.", "", "prefix \"module.\""},
      {"base_model.model.", "", "prefix \"base_model.model.\""},
      {"base_model.model.", ".base_layer", "merge_and_unload()"},
      {"base_model.model.", ".base_layer", "\".base_layer\"...prefix \"base_model.model.\""},
      {"student.wrapped.", "", "prefix \"student.wrapped.\""}};
  for (const Case& c : cases) {
    std::map<std::string, at::Tensor> renamed;
    for (const auto& [name, tensor] : tensors(config)) {
      const bool has_adapter = !c.inside.empty() && name.find("_proj.") != std::string::npos;
      const auto dot = name.rfind('.');
      renamed[c.prefix + (has_adapter ? name.substr(0, dot) + c.inside + name.substr(dot) : name)] = tensor;
      if (has_adapter) renamed[c.prefix + name.substr(0, dot) + ".lora_A.default.weight"] = at::zeros({2, 24});
    }
    std::filesystem::remove(directory_ / "model.safetensors");
    write(renamed);
    EXPECT_THAT(refusal(config), AllOf(Says(c.message), Says("model.embed_tokens.weight is missing...config.json"),
                                       HasSubstr(c.prefix + "model."), HasSubstr(" is not a tensor of this")));
  }
}

TEST_F(ModelDirectory, NamesThePartThatAllNamesLackOrHaveWithin) {
  const ModelConfig config = test::tiny_config();
  std::map<std::string, at::Tensor> headless, multimodal;
  for (const auto& [name, tensor] : tensors(config)) {
    if (!name.starts_with("model.")) continue;
    headless[name.substr(6)] = tensor;
    multimodal["model.language_model." + name.substr(6)] = tensor;
  }
  write(headless);
  EXPECT_THAT(refusal(config),
              Says("lack the prefix \"model.\"...embed_tokens.weight for model.embed_tokens.weight...without a head"));
  std::filesystem::remove(directory_ / "model.safetensors");
  write(multimodal);
  EXPECT_THAT(refusal(config), Says("names contain \".language_model\""));
}

TEST_F(ModelDirectory, ShowsWhatWasFoundHoweverMuchIsMissing) {
  const ModelConfig config = test::tiny_config();
  std::map<std::string, at::Tensor> foreign;
  for (int i = 0; i < 40; ++i) foreign[fmt::format("transformer.h.{}.mlp", i)] = at::zeros({2});
  write(foreign);
  EXPECT_THAT(refusal(config),
              AllOf(HasSubstr("... and 20 more"), HasSubstr("... and 30 more"),
                    HasSubstr("transformer.h.0.mlp is not a tensor of this architecture"),
                    HasSubstr("model.embed_tokens.weight is missing"), HasSubstr("do not match this config.json")));
}

TEST_F(ModelDirectory, AcceptsRotaryBuffersOfOldFiles) {
  const ModelConfig config = test::tiny_config();
  auto with_buffers = tensors(config);
  with_buffers["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::zeros({2});
  write(with_buffers);
  EXPECT_EQ(refusal(config), "(accepted)");
}

TEST_F(ModelDirectory, AcceptsARedundantTiedHead) {
  Json json = test::tiny_config_json();
  json["tie_word_embeddings"] = true;
  const ModelConfig config = test::tiny_config(json);
  auto redundant = tensors(config);
  redundant["lm_head.weight"] = redundant.at("model.embed_tokens.weight").clone();
  write(redundant);
  EXPECT_EQ(refusal(config), "(accepted)");
}

TEST_F(ModelDirectory, ComparesATiedHeadByValueWhateverItsType) {
  Json json = test::tiny_config_json();
  json["tie_word_embeddings"] = true;
  const ModelConfig config = test::tiny_config(json);
  auto redundant = tensors(config);
  for (auto& [name, tensor] : redundant) tensor = tensor.to(at::kBFloat16);
  redundant["lm_head.weight"] = redundant.at("model.embed_tokens.weight").to(at::kFloat);
  write(redundant);
  EXPECT_EQ(refusal(config), "(accepted)");
  redundant["lm_head.weight"][52][23] += 1e-3;
  std::filesystem::remove(directory_ / "model.safetensors");
  write(redundant);
  EXPECT_THAT(refusal(config), HasSubstr("lm_head.weight differs from model.embed_tokens.weight"));
}

// As safetensors.torch.save_model stores a tied pair.
TEST_F(ModelDirectory, ReadsATiedPairThatIsStoredAsItsHead) {
  Json json = test::tiny_config_json();
  json["tie_word_embeddings"] = true;
  const ModelConfig config = test::tiny_config(json);
  auto stored = tensors(config);
  const at::Tensor embeddings = stored.at("model.embed_tokens.weight");
  stored["lm_head.weight"] = embeddings;
  stored.erase("model.embed_tokens.weight");
  write(stored);
  const io::WeightFiles files = open_weights(config, directory_);
  EXPECT_EQ(files.find("lm_head.weight"), nullptr);
  const Weights weights = load_weights(config, files);
  EXPECT_TRUE(weights.embed_tokens.weight.equal(embeddings) && weights.lm_head.weight.equal(embeddings));
  json["tie_word_embeddings"] = false;
  const ModelConfig untied = test::tiny_config(json);
  EXPECT_THROW(check_weights(untied, open_weights(untied, directory_)), DataError);
}

TEST_F(ModelDirectory, RefusesAValueThatTheComputeTypeCannotHold) {
  const ModelConfig config = test::tiny_config();
  auto large = tensors(config);
  large["model.norm.weight"][3] = 3.4e38;
  write(large);
  const io::WeightFiles files = io::WeightFiles::open(directory_);
  EXPECT_NO_THROW(load_weights(config, files));
  try {
    load_weights(config, files, {.dtype = at::kBFloat16});
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr(directory_.string() + ": model.norm.weight has the value 3.4"),
                                    HasSubstr("at element 3, beyond the range of bf16. Compute in fp32")));
  }
}

TEST_F(ModelDirectory, RefusesATiedHeadThatDiffers) {
  Json json = test::tiny_config_json();
  json["tie_word_embeddings"] = true;
  const ModelConfig config = test::tiny_config(json);
  auto redundant = tensors(config);
  redundant["lm_head.weight"] = redundant.at("model.embed_tokens.weight") + 1;
  write(redundant);
  EXPECT_THAT(refusal(config), HasSubstr("lm_head.weight differs from model.embed_tokens.weight"));
}

TEST_F(ModelDirectory, SavesUnchangedTensorsByTheirBytesAndChangedOnesByValue) {
  const ModelConfig config = test::tiny_config();
  auto original = tensors(config);
  for (auto& [name, tensor] : original) tensor = tensor.to(at::kHalf);
  write(original);
  const auto files = io::WeightFiles::open(directory_);
  Weights weights = load_weights(config, files, {.dtype = at::kBFloat16});  // loses bits that the file has
  weights.norm.weight = weights.norm.weight.clone().mul_(2);
  const auto saved_dir = directory_ / "saved";
  std::filesystem::create_directories(saved_dir);
  test::SaveOptions options;
  options.source = &files;
  options.source_name = [](const std::string& name) { return name == "model.norm.weight" ? std::string() : name; };
  test::save_model(saved_dir, config, weights, options);
  const auto saved = io::WeightFiles::open(saved_dir);
  for (const std::string& name : saved.names()) {
    const at::Tensor value = as_tensor(saved.at(name), saved.owner(name));
    if (name == "model.norm.weight") {
      EXPECT_TRUE(value.equal(weights.norm.weight.to(at::kFloat)));
    } else {
      EXPECT_TRUE(value.equal(original.at(name))) << name;
    }
  }
  EXPECT_EQ(read_model_config(saved_dir).source.dump(), config.source.dump());
}

TEST(TorchTensors, ElementTypesGoBothWays) {
  for (const DType type :
       {DType::kBool, DType::kU8, DType::kI8, DType::kI16, DType::kU16, DType::kI32, DType::kU32, DType::kI64,
        DType::kU64, DType::kF16, DType::kBF16, DType::kF32, DType::kF64, DType::kF8E4M3, DType::kF8E5M2}) {
    EXPECT_EQ(to_dtype(to_scalar_type(type)), type);
  }
}

TEST(TorchTensors, ANarrowerTypeHoldsEveryValueOrSaysWhichItDoesNot) {
  const float infinity = std::numeric_limits<float>::infinity();
  const auto to = [](const std::vector<float>& values, at::ScalarType type) {
    const at::Tensor tensor = at::tensor(values);
    try {
      to_type(tensor, type, [] { return std::string("t"); }, "Do this.");
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("(converted)");
  };
  EXPECT_EQ(to({1, 65504, 65519, -65519}, at::kHalf), "(converted)");
  EXPECT_THAT(to({1, 2, -65520}, at::kHalf), Reads("t ...-65520 at element 2...fp16. Do this."));
  EXPECT_THAT(to({1, 7e4F, 8e4F}, at::kHalf), Reads("t ...70000 at element 1...fp16. Do this."));
  EXPECT_EQ(to({3.38e38F}, at::kBFloat16), "(converted)");
  EXPECT_THAT(to({3.4e38F}, at::kBFloat16), Says("at element 0...bf16"));
  EXPECT_EQ(to({3.4e38F}, at::kFloat), "(converted)");
  EXPECT_EQ(to({infinity, -infinity, std::nanf("")}, at::kHalf), "(converted)") << "another matter";
}

TEST(TorchTensors, UnalignedBytesAreCopied) {
  alignas(8) std::byte bytes[12] = {};
  bytes[1] = std::byte{7};
  const io::TensorView view{"x", DType::kI32, {2}, std::span<const std::byte>(bytes + 1, 8)};
  const at::Tensor tensor = as_tensor(view, nullptr);
  EXPECT_EQ(tensor[0].item<int>(), 7);
  EXPECT_NE(tensor.const_data_ptr(), static_cast<const void*>(bytes + 1));
}

TEST(TorchTensors, RefusesTensorsThatAreNotContiguous) {
  EXPECT_THROW(as_view("x", at::zeros({2, 3}).t()), InternalError);
}

}  // namespace
}  // namespace adept::model
