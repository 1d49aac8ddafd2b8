// Tiny random models on disk, and batches for them: what tests of the layers above adept/model start from.
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "adept/core/random.h"
#include "adept/data/sequences.h"
#include "adept/method/expansion.h"
#include "adept/method/units.h"
#include "adept/model/batch.h"
#include "adept/model/decoder.h"
#include "adept/model/load.h"
#include "tests/support/files.h"
#include "tests/support/sanitizers.h"
#include "tests/support/save_model.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tolerance.h"
#include "tests/unit/model/random_model.h"

namespace adept::test {

/// The message of the exception of this type that `function` throws; another type passes through.
template <typename Exception, typename Function>
std::string message_of(Function&& function) {
  try {
    function();
  } catch (const Exception& error) {
    return error.what();
  }
  return "(nothing was thrown)";
}

/// One of each way in which supported architectures differ.
inline const std::vector<std::string>& all_model_kinds() {
  static const std::vector<std::string> kinds = {
      "llama", "llama_biased_tied", "mistral", "qwen2", "qwen3", "gemma3", "olmo2", "phi3", "granite", "gemma2"};
  return kinds;
}

/// The same; under sanitizers, one of each structure, as the others run the same code above nn.
inline const std::vector<std::string>& model_kinds() {
  static const std::vector<std::string> structures = {"llama_biased_tied", "gemma3", "olmo2", "phi3",
                                                      "granite",           "gemma2"};
  return has_sanitizers() ? structures : all_model_kinds();
}

/// A kind is a model_type, except for these.
inline std::string model_type_of_kind(const std::string& kind) {
  if (kind == "llama_biased_tied") return "llama";
  return kind == "gemma3" ? "gemma3_text" : kind;
}

inline Json config_of_kind(const std::string& kind, int num_layers = 4) {
  Json json = tiny_config_json(model_type_of_kind(kind));
  json["num_hidden_layers"] = num_layers;
  if (kind == "llama_biased_tied") {
    json["attention_bias"] = json["mlp_bias"] = json["tie_word_embeddings"] = true;
  } else if (kind == "mistral") {
    json["sliding_window"] = 5;
  } else if (kind == "qwen2") {
    json["use_sliding_window"] = true;
    json["sliding_window"] = 5;
    json["max_window_layers"] = num_layers / 2;
  } else if (kind == "qwen3") {
    json["use_sliding_window"] = true;
    json["sliding_window"] = 5;
    json["layer_types"] = Json::array();
    for (int l = 0; l < num_layers; ++l)
      json["layer_types"].push_back(l % 3 == 1 ? "full_attention" : "sliding_attention");
  } else if (kind == "gemma3") {
    json.erase("hidden_act");
    json["hidden_activation"] = "gelu_pytorch_tanh";
    json["query_pre_attn_scalar"] = 6;
    json["sliding_window"] = 5;
    json["sliding_window_pattern"] = 3;
  } else if (kind == "gemma2") {
    json.erase("hidden_act");
    json["hidden_activation"] = "gelu_pytorch_tanh";
    json["query_pre_attn_scalar"] = 6;
    json["sliding_window"] = 5;
    json["attn_logit_softcapping"] = 1.5;
    json["final_logit_softcapping"] = 2;
  } else if (kind == "phi3") {
    json["sliding_window"] = 5;
    json["partial_rotary_factor"] = 0.5;
  } else if (kind == "granite") {
    json["embedding_multiplier"] = 3;
    json["attention_multiplier"] = 0.3;
    json["residual_multiplier"] = 0.6;
    json["logits_scaling"] = 1.5;
  }
  return json;
}

/// A decoder of such a configuration with random weights.
inline model::Decoder decoder_of_kind(const std::string& kind, at::ScalarType dtype = at::kFloat) {
  const model::ModelConfig config = tiny_config(config_of_kind(kind));
  return model::Decoder(config, random_weights(config, 5, dtype));
}

/// A model directory with random weights.
inline void write_model(const std::filesystem::path& dir, const Json& json, DType dtype = DType::kF32,
                        std::int64_t max_shard_bytes = 5'000'000'000) {
  std::filesystem::create_directories(dir);
  const model::ModelConfig config = model::parse_model_config(json, dir.string());
  SaveOptions options;
  options.new_dtype = dtype;
  options.max_shard_bytes = max_shard_bytes;
  save_model(dir, config, random_weights(config), options);
}

inline model::Decoder load_decoder(const std::filesystem::path& dir, at::ScalarType dtype = at::kFloat,
                                   bool widen_matrices = false) {
  return model::load_decoder(dir, {.dtype = dtype, .widen_matrices = widen_matrices});
}

/// A model of this kind in `dir`/base and its expansion behind the layers `after` in `dir`/expanded.
struct ExpandedModel {
  std::filesystem::path base, expanded;
  method::Expansion expansion;
};
inline ExpandedModel write_expanded_model(const std::filesystem::path& dir, const std::string& kind,
                                          const std::vector<int>& after, DType dtype = DType::kF32,
                                          int num_layers = 4) {
  ExpandedModel model{.base = dir / "base", .expanded = dir / "expanded", .expansion = {}};
  write_model(model.base, config_of_kind(kind, num_layers), dtype);
  model.expansion = method::expand_model(model.base, model.expanded, after, std::nullopt);
  return model;
}

/// Ids 3 .. vocab_size-1, a function of seed and position alone.
inline std::vector<std::int32_t> random_tokens(std::int64_t count, std::uint64_t seed, std::int32_t vocab_size = 53) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(
        3 + static_cast<std::int32_t>(random_bits(seed, RandomStream::kSampling, static_cast<std::uint64_t>(i)) %
                                      static_cast<std::uint64_t>(vocab_size - 3)));
  return tokens;
}

inline std::vector<data::Sequence> random_sequences(const std::vector<std::int64_t>& lengths, std::uint64_t seed) {
  std::vector<data::Sequence> sequences;
  for (std::size_t i = 0; i < lengths.size(); ++i)
    sequences.push_back({.tokens = random_tokens(lengths[i], 1000 * seed + i)});
  return sequences;
}

/// Rows of the given lengths, padded with `pad_id` to the longest.
inline model::Batch random_batch(const std::vector<std::int64_t>& lengths, std::uint64_t seed = 1,
                                 std::int32_t pad_id = 0) {
  return model::to_batch(data::make_batch(random_sequences(lengths, seed), pad_id), at::kCPU);
}

/// Copies of all parameters, by name.
inline std::map<std::string, at::Tensor> parameters_of(const model::Decoder& decoder) {
  std::map<std::string, at::Tensor> copies;
  model::Weights weights = decoder.weights();
  for (const model::Parameter& p : model::named_parameters(decoder.config(), weights))
    copies[p.name] = p.tensor->detach().clone();
  return copies;
}

inline std::vector<std::string> names_of(const std::vector<method::Unit>& units) {
  std::vector<std::string> names;
  for (const method::Unit& unit : units) names.push_back(unit.name);
  return names;
}

}  // namespace adept::test
