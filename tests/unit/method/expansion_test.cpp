// Expanded model directories.
#include "adept/method/expansion.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "adept/core/error.h"
#include "adept/core/process_memory.h"
#include "adept/io/record.h"
#include "adept/io/weight_files.h"
#include "tests/support/forward_without.h"
#include "tests/support/reads.h"
#include "tests/support/tiny_models.h"

namespace adept::method {
namespace {

using test::Says;
using ::testing::HasSubstr;

bool same_bytes(const io::TensorView& a, const io::TensorView& b) {
  return a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(a.data, b.data);
}

// Every value is 0, or what 1 + w makes 0.
bool has_no_effect(const io::WeightFiles& files, const std::string& name, double offset) {
  const at::Tensor values = model::as_tensor(files.at(name), files.owner(name));
  return values.eq(-offset).all().item<bool>();
}

const std::vector<int> kAfter = {1, 3};

TEST(Expansion, LogitsEqualTheBasesByValue) {
  const at::NoGradGuard no_grad;
  const nn::TokenIds ids = test::random_batch({17, 11}).input_ids;
  for (const std::string& kind : test::model_kinds()) {
    for (const auto& [stored, computed] : {std::pair{DType::kF32, at::kFloat}, {DType::kBF16, at::kBFloat16}}) {
      for (const std::vector<int>& after : {std::vector<int>{1, 3}, {0}, {0, 1, 2, 3}}) {
        SCOPED_TRACE(kind);
        const test::TemporaryDirectory dir;
        const auto model = test::write_expanded_model(dir.path(), kind, after, stored);
        const model::Decoder base = test::load_decoder(model.base, computed);
        const model::Decoder expanded = test::load_decoder(model.expanded, computed);
        EXPECT_EQ(expanded.num_layers(), base.num_layers() + static_cast<std::int64_t>(after.size()));
        const at::Tensor expected = base.logits(base.forward(ids, {}));
        EXPECT_TRUE(expanded.logits(expanded.forward(ids, {})).equal(expected));
        EXPECT_GT(expected.abs().max().item<double>(), 0.1);
      }
    }
  }
}

TEST(Expansion, BypassingTheCopiesGivesTheBaseWhateverTheyHold) {
  const at::NoGradGuard no_grad;
  const nn::TokenIds ids = test::random_batch({17, 11}).input_ids;
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), kind, kAfter);
    const model::Decoder base = test::load_decoder(model.base);
    model::Decoder expanded = test::load_decoder(model.expanded);
    std::vector<int> copies;
    for (const ExpandedLayer& copy : model.expansion.layers) {
      copies.push_back(copy.index);
      for (const auto& p : model::layer_parameters(expanded.weights(), copy.index))
        *p.tensor = at::randn_like(*p.tensor);
    }
    const at::Tensor expected = base.logits(base.forward(ids, {}));
    EXPECT_TRUE(test::same_bits(expanded.logits(test::forward_without(copies, expanded, ids, {})), expected));
    EXPECT_FALSE(expanded.logits(expanded.forward(ids, {})).equal(expected)) << "the copies have no effect to bypass";
  }
}

TEST(Expansion, OriginalTensorsKeepTheirBytesAndCopiesDifferOnlyInZeroedOutputs) {
  for (const std::string& kind : test::model_kinds()) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      SCOPED_TRACE(kind);
      const test::TemporaryDirectory dir;
      const auto model = test::write_expanded_model(dir.path(), kind, kAfter, dtype);
      const io::WeightFiles base = io::WeightFiles::open(model.base);
      const io::WeightFiles expanded = io::WeightFiles::open(model.expanded);
      model::Weights slots;
      std::map<std::string, model::Parameter> outputs;  // by name
      for (const auto& p : model::named_parameters(model::read_model_config(model.base), slots))
        if (p.role == model::Role::kResidualOutput) outputs[p.name] = p;
      std::set<std::string> accounted;
      for (const std::string& name : base.names()) {
        const std::string new_name = expanded_name(name, model.expansion.layers);
        EXPECT_TRUE(same_bytes(expanded.at(new_name), base.at(name))) << name;
        accounted.insert(new_name);
        for (const ExpandedLayer& copy : model.expansion.layers) {
          const std::string prefix = "model.layers." + std::to_string(copy.source) + ".";
          if (!name.starts_with(prefix)) continue;
          const std::string unit = name.substr(prefix.size());
          const std::string copied = "model.layers." + std::to_string(copy.index) + "." + unit;
          accounted.insert(copied);
          const bool output = outputs.contains(name);
          EXPECT_TRUE(!output || has_no_effect(expanded, copied, outputs.at(name).offset)) << copied;
          EXPECT_EQ(same_bytes(expanded.at(copied), base.at(name)), !output) << copied;
          EXPECT_EQ(expanded.at(copied).dtype, dtype);
        }
      }
      const auto names = expanded.names();
      EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), accounted);
    }
  }
}

TEST(Expansion, TakesShardedModelsAndCopiesTheTokenizerVerbatim) {
  const test::TemporaryDirectory dir;
  test::write_model(dir / "base", test::config_of_kind("llama"), DType::kF32, 8'000);
  ASSERT_TRUE(std::filesystem::exists(dir / "base" / "model.safetensors.index.json"));
  test::write_file(dir / "base" / "tokenizer.json", "{\"any\":  \"bytes\"}\n");
  test::write_file(dir / "base" / "generation_config.json", "{}");
  test::write_file(dir / "base" / "README.md", "not copied");
  const Expansion expansion = expand_model(dir / "base", dir / "out", kAfter, std::nullopt);
  const io::WeightFiles base = io::WeightFiles::open(dir / "base"), expanded = io::WeightFiles::open(dir / "out");
  for (const std::string& name : base.names())
    EXPECT_TRUE(same_bytes(expanded.at(expanded_name(name, expansion.layers)), base.at(name))) << name;
  EXPECT_EQ(test::read_file(dir / "out" / "tokenizer.json"), "{\"any\":  \"bytes\"}\n");
  EXPECT_EQ(test::read_file(dir / "out" / "generation_config.json"), "{}");
  EXPECT_FALSE(std::filesystem::exists(dir / "out" / "README.md"));
}

Importance scores_of(const std::filesystem::path& model_dir, const std::vector<double>& scores) {
  Importance importance{.method = "mask_out",
                        .model = io::model_identity(io::WeightFiles::open(model_dir)),
                        .baseline_loss = 2.5,
                        .tokens = 100,
                        .sequences = 1,
                        .layers = {},
                        .stability = {},
                        .separation = {}};
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double score : scores)
    importance.layers.push_back(
        {.index = static_cast<int>(importance.layers.size()), .score = score, .ci95 = {-infinity, infinity}});
  normalize_and_rank(importance.layers);
  return importance;
}

TEST(Expansion, HasOneTensorInMemoryAtATime) {
  const test::TemporaryDirectory dir;
  Json json = test::config_of_kind("llama", /*num_layers=*/16);
  json["intermediate_size"] = 16'384;
  test::write_model(dir / "base", json);
  const std::int64_t bytes = io::WeightFiles::open(dir / "base").total_bytes();
  ASSERT_GT(bytes, std::int64_t{16} << 20);
  reset_peak_rss();
  const std::int64_t before = peak_rss_bytes();
  expand_model(dir / "base", dir / "expanded", kAfter, std::nullopt);
  EXPECT_LT(peak_rss_bytes() - before, bytes / 4);
}

TEST(Manifest, SurvivesTheRoundTripThroughTheFileScoresIncluded) {
  const test::TemporaryDirectory dir;
  test::write_model(dir / "base", test::config_of_kind("llama"));
  const Importance importance = scores_of(dir / "base", {0.3, 0.1 + 0.2, -1, 0.25});
  const Expansion written = expand_model(dir / "base", dir / "out", kAfter, importance);
  const Expansion found = read_expansion(dir / "out");
  EXPECT_EQ(found.base, io::model_identity(io::WeightFiles::open(dir / "base")));
  EXPECT_EQ(found.base_num_hidden_layers, 4);
  ASSERT_EQ(found.layers.size(), 2U);
  EXPECT_EQ(found.layers[0].source, 1);
  EXPECT_EQ(found.layers[0].index, 2);
  EXPECT_EQ(found.layers[1].source, 3);
  EXPECT_EQ(found.layers[1].index, 5);
  ASSERT_TRUE(found.importance.has_value());
  EXPECT_EQ(to_json(found).dump(), to_json(written).dump());
  EXPECT_EQ(found.importance->layers[1].score, 0.1 + 0.2);
  EXPECT_EQ(found.importance->layers[1].ci95, importance.layers[1].ci95);
}

TEST(Manifest, OfADamagedFileNamesWhatIsWrong) {
  const test::TemporaryDirectory dir;
  test::write_expanded_model(dir.path(), "llama", kAfter);
  const std::filesystem::path manifest = dir / "expanded" / kExpansionManifest;
  const Json good = io::read_record(manifest);  // edits of a file without a checksum
  const auto refusal = [&](const char* pointer, const Json& value) {
    Json json = good;
    json[Json::json_pointer(pointer)] = value;
    test::write_file(manifest, json.dump());
    return test::message_of<DataError>([&] { read_expansion(dir / "expanded"); });
  };
  EXPECT_THAT(refusal("/version", 2), Says("adept_expansion.json: ...version is 2; ...version 1"));
  EXPECT_THAT(refusal("/version", "1"), HasSubstr("version is \"1\"; expected an integer"));
  EXPECT_THAT(refusal("/base_model/weights", 7), HasSubstr("base_model.weights is number; expected a string"));
  EXPECT_THAT(refusal("/base_num_hidden_layers", "four"), HasSubstr("base_num_hidden_layers is \"four\""));
  EXPECT_THAT(refusal("/base_num_hidden_layers", 3), HasSubstr("found 3; expected indices from 0 to 2"));
  EXPECT_THAT(refusal("/expanded_layers", 3), HasSubstr("expanded_layers is 3; expected a list"));
  EXPECT_THAT(refusal("/expanded_layers", Json::array()), HasSubstr("layers to expand: found none"));
  EXPECT_THAT(refusal("/expanded_layers/1", 3), HasSubstr("expanded_layers[1].source is missing"));
  EXPECT_THAT(refusal("/expanded_layers/1/source", 2.5), HasSubstr("expanded_layers[1].source is 2.5"));
  EXPECT_THAT(refusal("/expanded_layers/1/source", 0), HasSubstr("found 0 after 1; expected ascending"));
  EXPECT_THAT(refusal("/expanded_layers/1/index", 4),
              Says("adept_expansion.json...copy of layer 3 has index 4; expected 5"));
  EXPECT_THAT(refusal("/importance", 1), HasSubstr("not importance scores"));
  io::write_record(manifest, good);
  std::string flipped = test::read_file(manifest);
  flipped[flipped.find("\"source\": 1") + 10] ^= 1;
  test::write_file(manifest, flipped);
  EXPECT_THAT(test::message_of<DataError>([&] { read_expansion(dir / "expanded"); }),
              HasSubstr("adept_expansion.json: is damaged or was edited"));
  test::write_file(manifest, good.dump().substr(0, 40));
  EXPECT_THAT(test::message_of<DataError>([&] { read_expansion(dir / "expanded"); }),
              HasSubstr("adept_expansion.json"));
  test::write_file(manifest, "[]");
  EXPECT_THAT(test::message_of<DataError>([&] { read_expansion(dir / "expanded"); }),
              HasSubstr("is damaged: it does not contain a JSON object"));
}

TEST(Manifest, AModelThatWasNeverExpandedSaysHow) {
  const test::TemporaryDirectory dir;
  test::write_model(dir / "base", test::config_of_kind("llama"));
  const std::string message = test::message_of<DataError>([&] { read_expansion(dir / "base"); });
  EXPECT_THAT(message, Says("base: found no adept_expansion.json; expected ...`adept expand --model"));
}

// Expanding must fail with an `Exception` and leave nothing behind; its message.
template <typename Exception>
std::string refusal(const test::TemporaryDirectory& dir, const std::vector<int>& after,
                    const std::optional<Importance>& importance = std::nullopt) {
  const std::string message =
      test::message_of<Exception>([&] { expand_model(dir / "base", dir / "out", after, importance); });
  for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
    EXPECT_EQ(entry.path().filename(), "base") << "left behind";
  return message;
}

TEST(Expansion, RefusesWrongLayersBeforeAnythingIsWritten) {
  const test::TemporaryDirectory dir;
  test::write_model(dir / "base", test::config_of_kind("llama"));
  EXPECT_THAT(refusal<ConfigError>(dir, {1, 4}), HasSubstr("found 4; expected indices from 0 to 3"));
  EXPECT_THAT(refusal<ConfigError>(dir, {3, 1}), HasSubstr("found 1 after 3"));
  EXPECT_THAT(refusal<ConfigError>(dir, {}), HasSubstr("found none"));
}

TEST(Expansion, RefusesScoresOfAnotherModel) {
  const test::TemporaryDirectory dir;
  test::write_model(dir / "base", test::config_of_kind("llama"));
  EXPECT_THAT(refusal<DataError>(dir, kAfter, scores_of(dir / "base", {1, 2, 3})),
              Says("importance scores...3 layers...4"));
  Importance other = scores_of(dir / "base", {1, 2, 3, 4});
  other.model->weights = "xxh3:00000000000000000000000000000000";
  EXPECT_THAT(refusal<DataError>(dir, kAfter, other), Says("importance scores...different model (weights "));
  const Importance scores = scores_of(dir / "base", {1, 2, 3, 4});
  Json config = read_json(dir / "base" / "config.json");
  config["rms_norm_eps"] = 2e-5;
  test::write_file(dir / "base" / "config.json", config.dump());
  EXPECT_THAT(refusal<DataError>(dir, kAfter, scores), Says("importance scores...different model (config.json "));
}

// As loading does: otherwise the expanded model could not be used.
TEST(Expansion, ChecksTheWeightsAgainstTheConfiguration) {
  struct Case {
    std::string kind, key;
    Json value;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"llama", "attention_bias", true, "model.layers.0.self_attn.q_proj.bias...missing...config.json"},
      {"llama_biased_tied", "attention_bias", false, "self_attn.q_proj.bias is not "},
      {"llama_biased_tied", "tie_word_embeddings", false, "lm_head.weight...missing...config.json"},
      {"llama", "tie_word_embeddings", true, "lm_head.weight differs...model.embed_tokens.weight"},
      {"llama", "intermediate_size", 40, "mlp.up_proj.weight...[36, 24]...config.json...[40, 24]"},
      {"llama", "eos_token_id", 53, "eos_token_id...53; expected ...0 to 52"}};
  for (const Case& c : cases) {
    const test::TemporaryDirectory dir;
    test::write_model(dir / "base", test::config_of_kind(c.kind));
    Json config = test::config_of_kind(c.kind);
    config[c.key] = c.value;
    test::write_file(dir / "base" / "config.json", config.dump());
    EXPECT_THAT(refusal<DataError>(dir, kAfter), Says(c.message)) << c.key;
    EXPECT_THAT(test::message_of<DataError>([&] { test::load_decoder(dir / "base"); }), Says(c.message)) << c.key;
  }
}

TEST(Expansion, RefusesAModelWhoseCopiesCouldNotBeMadeTheIdentity) {
  const test::TemporaryDirectory dir;
  test::write_model(dir / "base", test::config_of_kind("llama"));
  std::vector<io::TensorView> kept;
  std::filesystem::create_directories(dir / "new");
  {
    const io::WeightFiles files = io::WeightFiles::open(dir / "base");
    for (const std::string& name : files.names())
      if (name != "model.layers.3.mlp.down_proj.weight") kept.push_back(files.at(name));
    io::write_weight_files(dir / "new", kept);
    std::filesystem::rename(dir / "new" / "model.safetensors", dir / "base" / "model.safetensors");
    std::filesystem::remove_all(dir / "new");
  }
  EXPECT_THAT(refusal<DataError>(dir, kAfter), Says("model.layers.3.mlp.down_proj.weight...missing...config.json"));
}

TEST(Expansion, RefusesADefaultThatWouldMoveTheWindowInADeeperModel) {
  const test::TemporaryDirectory dir;
  Json config = test::config_of_kind("qwen2", 28);  // max_window_layers is 28 by default: none has the window
  config.erase("max_window_layers");
  config["hidden_size"] = config["intermediate_size"] = 4;
  test::write_model(dir / "base", config);
  EXPECT_THAT(refusal<DataError>(dir, {3, 5}),
              Says("layer 26...0 tokens...layer 28...5...layer_types or max_window_layers"));
}

TEST(Expansion, NamesTheFieldsOfAConfigThatItDoesNotUnderstand) {
  const test::TemporaryDirectory dir;
  test::write_model(dir / "base", test::config_of_kind("llama"));
  Json config = test::config_of_kind("llama");
  config["sliding_window_pattern"] = 6;
  test::write_file(dir / "base" / "config.json", config.dump());
  EXPECT_THAT(refusal<DataError>(dir, kAfter), HasSubstr("sliding_window_pattern"));
}

TEST(Expansion, LeavesAnExistingDirectoryAloneUnlessToldToReplaceIt) {
  const test::TemporaryDirectory dir;
  test::write_model(dir / "base", test::config_of_kind("llama"));
  std::filesystem::create_directories(dir / "out");
  test::write_file(dir / "out" / "precious", "text");
  EXPECT_THAT(test::message_of<DataError>([&] { expand_model(dir / "base", dir / "out", kAfter, std::nullopt); }),
              HasSubstr((dir / "out").string()));
  EXPECT_EQ(test::read_file(dir / "out" / "precious"), "text");
  EXPECT_FALSE(std::filesystem::exists(dir / "out" / "config.json"));
  expand_model(dir / "base", dir / "out", kAfter, std::nullopt, io::OnExisting::kReplace);
  EXPECT_FALSE(std::filesystem::exists(dir / "out" / "precious"));
  EXPECT_EQ(read_expansion(dir / "out").layers.size(), 2U);
}

TEST(Expansion, CanBeExpandedAgain) {
  const at::NoGradGuard no_grad;
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "qwen3", kAfter);
  const Expansion second = expand_model(model.expanded, dir / "twice", std::vector<int>{0, 2}, std::nullopt);
  EXPECT_EQ(second.base_num_hidden_layers, 6);
  const model::Decoder base = test::load_decoder(model.base), twice = test::load_decoder(dir / "twice");
  const nn::TokenIds ids = test::random_batch({17}).input_ids;
  EXPECT_EQ(twice.num_layers(), 8);
  EXPECT_TRUE(twice.logits(twice.forward(ids, {})).equal(base.logits(base.forward(ids, {}))));
}

}  // namespace
}  // namespace adept::method
