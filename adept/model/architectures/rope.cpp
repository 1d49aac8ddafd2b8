// rope_theta and rope_scaling, and rope_parameters that replaced them in transformers 5.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace {

std::optional<nn::RopeType> rope_type(std::string_view name, const RopeOptions& options) {
  if (std::ranges::count(options.types, name) == 0) return std::nullopt;
  if (name == "default") return nn::RopeType::kDefault;
  if (name == "linear") return nn::RopeType::kLinear;
  if (name == "llama3") return nn::RopeType::kLlama3;
  if (name == "longrope" || name == "su") return nn::RopeType::kLongRope;
  return std::nullopt;
}

/// The type by its new name, its old one, or "default". False if it is not implemented.
bool read_type(ConfigReader& scaling, nn::RopeParameters& rope, const RopeOptions& options) {
  const auto by_new_name = scaling.text("rope_type"), by_old_name = scaling.text("type");
  const char* key = by_new_name ? "rope_type" : "type";
  if (by_new_name && by_old_name && *by_new_name != *by_old_name) {
    scaling.problem("type",
                    fmt::format("is \"{}\" but rope_type is \"{}\"; remove the wrong one", *by_old_name, *by_new_name));
    return false;
  }
  const std::string name = by_new_name.value_or(by_old_name.value_or("default"));
  const auto type = rope_type(name, options);
  if (!type) {
    scaling.problem(
        key, fmt::format("is \"{}\"; this build knows {}. Use a model whose context is not extended in this way.", name,
                         fmt::join(options.types, ", ")));
    return false;
  }
  rope.type = *type;
  return true;
}

// As transformers does: the key beside the dictionary (or its default), else the one inside, else the model's length.
double read_original_length(ConfigReader& reader, ConfigReader& scaling, const ModelConfig& config,
                            const RopeOptions& options) {
  const std::int64_t inside = scaling.integer("original_max_position_embeddings", 0, 1, kMaxInt32);
  const std::int64_t beside = reader.integer("original_max_position_embeddings", options.original_length, 1, kMaxInt32);
  if (inside != 0 && beside != 0 && inside != beside) {
    scaling.problem("original_max_position_embeddings",
                    fmt::format("is {}, but {} outside; remove the wrong one", inside, beside));
  }
  const std::int64_t length = beside != 0 ? beside : inside != 0 ? inside : config.max_position_embeddings;
  if (length == 0) scaling.problem("original_max_position_embeddings", "is missing");
  return static_cast<double>(length);
}

void read_llama3(ConfigReader& scaling, nn::RopeParameters& rope) {
  rope.low_freq_factor = scaling.number("low_freq_factor", std::nullopt, 0);
  rope.high_freq_factor = scaling.number("high_freq_factor", std::nullopt, 0);
  if (!(rope.high_freq_factor > rope.low_freq_factor)) {
    scaling.problem("high_freq_factor", fmt::format("is {}; expected more than low_freq_factor, {}",
                                                    rope.high_freq_factor, rope.low_freq_factor));
  }
}

/// A positive number for each pair of dimensions that rotates.
std::vector<double> read_factors(ConfigReader& scaling, std::string_view key, std::size_t count) {
  const Json& list = scaling.take(key);
  std::vector<double> factors;
  if (list.is_array())
    for (const Json& factor : list)
      if (factor.is_number() && factor.get<double>() > 0) factors.push_back(factor.get<double>());
  if (list.is_array() && list.size() == count && factors.size() == count) return factors;
  scaling.problem(key, fmt::format("is {}; expected {} positive numbers, one for each pair of rotating dimensions",
                                   brief(list), count));
  return std::vector<double>(count, 1);
}

void read_longrope(ConfigReader& scaling, const ModelConfig& config, nn::RopeParameters& rope) {
  const auto pairs = static_cast<std::size_t>(rope.rotary_dim(config.head_dim) / 2);
  rope.short_factor = read_factors(scaling, "short_factor", pairs);
  rope.long_factor = read_factors(scaling, "long_factor", pairs);
  const double original = rope.original_max_position_embeddings;
  rope.factor = scaling.number("factor", static_cast<double>(config.max_position_embeddings) / original, 0);
  const double recommended =
      rope.factor > 1 && original > 1 ? std::sqrt(1 + std::log(rope.factor) / std::log(original)) : 1;
  rope.attention_factor = scaling.number("attention_factor", recommended, 0);
}

/// partial_rotary_factor, where it may be given.
void read_share(ConfigReader& reader, const ModelConfig& config, nn::RopeParameters& rope, const RopeOptions& options) {
  constexpr const char* kKey = "partial_rotary_factor";
  if (!options.rotates_partly) return reader.require(kKey, {1}, "This model_type rotates whole heads.");
  if (!reader.has(kKey)) return reader.ignore(kKey);
  const double share = reader.number(kKey, std::nullopt, 0);
  rope.partial_rotary_factor = share;
  const std::int64_t rotating = rope.rotary_dim(config.head_dim);
  if (share <= 1 && rotating > 0 && rotating % 2 == 0) return;
  reader.problem(kKey, fmt::format("is {}: {} of the {} dimensions of a head; expected an even number of them", share,
                                   rotating, config.head_dim));
  rope.partial_rotary_factor = 1;
}

}  // namespace

void read_rope_dictionary(ConfigReader& reader, ConfigReader& scaling, const ModelConfig& config,
                          nn::RopeParameters& rope, const RopeOptions& options) {
  const double beside = rope.partial_rotary_factor;
  read_share(scaling, config, rope, options);
  if (reader.has("partial_rotary_factor") && rope.partial_rotary_factor != beside)
    scaling.problem("partial_rotary_factor",
                    fmt::format("is {}, but {} outside; remove the wrong one", rope.partial_rotary_factor, beside));
  if (scaling.has("rope_theta")) {
    const double inside = scaling.number("rope_theta", std::nullopt, 0);
    if (reader.has("rope_theta") && inside != rope.theta) {
      scaling.problem("rope_theta", fmt::format("is {}, but {} outside; remove the wrong one", inside, rope.theta));
    }
    rope.theta = inside;
  }
  scaling.ignore("rope_theta");
  if (!read_type(scaling, rope, options)) return;
  if (rope.type == nn::RopeType::kLinear || rope.type == nn::RopeType::kLlama3)
    rope.factor = scaling.number("factor", std::nullopt, 0);
  if (rope.type == nn::RopeType::kLlama3) read_llama3(scaling, rope);
  if (rope.type == nn::RopeType::kLlama3 || rope.type == nn::RopeType::kLongRope)
    rope.original_max_position_embeddings = read_original_length(reader, scaling, config, options);
  if (rope.type == nn::RopeType::kLongRope) read_longrope(scaling, config, rope);
  scaling.refuse_unknown("It has no meaning for this rope_type; remove it if it is not meant to change the positions.");
}

nn::RopeParameters read_rope(ConfigReader& reader, const ModelConfig& config, const RopeOptions& options) {
  nn::RopeParameters rope;
  rope.theta = reader.number("rope_theta", options.theta, 0);
  read_share(reader, config, rope, options);
  reader.ignore("original_max_position_embeddings");  // read with the types that extend it, as transformers does
  const Json& old_spelling = reader.take("rope_scaling");
  const Json& new_spelling = reader.take("rope_parameters");
  const auto is_given = [](const Json& value) { return !value.is_null() && !(value.is_object() && value.empty()); };
  if (is_given(old_spelling) && is_given(new_spelling) && old_spelling != new_spelling) {
    reader.problem("rope_scaling", "and rope_parameters are both given and differ; remove the wrong one");
    return rope;
  }
  const bool old_one = is_given(old_spelling);
  const Json& dictionary = old_one ? old_spelling : new_spelling;
  const std::string key = old_one ? "rope_scaling" : "rope_parameters";
  if (!is_given(dictionary)) return rope;
  if (!dictionary.is_object()) {
    reader.problem(key, fmt::format("is {}; expected an object", brief(dictionary)));
    return rope;
  }
  ConfigReader scaling = reader.inside(key);
  read_rope_dictionary(reader, scaling, config, rope, options);
  return rope;
}

}  // namespace adept::model
