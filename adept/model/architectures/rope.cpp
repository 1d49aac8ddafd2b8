// rope_theta and rope_scaling, and rope_parameters that replaced them in transformers 5.
#include <fmt/format.h>

#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace {

constexpr std::string_view kOnlyWholeHeads = "Rotating a part of each head is not implemented.";

std::optional<nn::RopeType> rope_type(std::string_view name) {
  if (name == "default") return nn::RopeType::kDefault;
  if (name == "linear") return nn::RopeType::kLinear;
  if (name == "llama3") return nn::RopeType::kLlama3;
  return std::nullopt;
}

/// The type by its new name, its old one, or "default". False if it is not implemented.
bool read_type(ConfigReader& scaling, nn::RopeParameters& rope) {
  const auto by_new_name = scaling.text("rope_type"), by_old_name = scaling.text("type");
  const char* key = by_new_name ? "rope_type" : "type";
  if (by_new_name && by_old_name && *by_new_name != *by_old_name) {
    scaling.problem("type",
                    fmt::format("is \"{}\" but rope_type is \"{}\"; remove the wrong one", *by_old_name, *by_new_name));
    return false;
  }
  const std::string name = by_new_name.value_or(by_old_name.value_or("default"));
  const auto type = rope_type(name);
  if (!type) {
    scaling.problem(key,
                    fmt::format("is \"{}\"; this build knows default, linear, llama3. Use a model whose context is "
                                "not extended in this way.",
                                name));
    return false;
  }
  rope.type = *type;
  return true;
}

void read_llama3(ConfigReader& reader, ConfigReader& scaling, const ModelConfig& config, nn::RopeParameters& rope) {
  rope.low_freq_factor = scaling.number("low_freq_factor", std::nullopt, 0);
  rope.high_freq_factor = scaling.number("high_freq_factor", std::nullopt, 0);
  if (!(rope.high_freq_factor > rope.low_freq_factor)) {
    scaling.problem("high_freq_factor", fmt::format("is {}; expected more than low_freq_factor, {}",
                                                    rope.high_freq_factor, rope.low_freq_factor));
  }
  // transformers: the key beside the dictionary, else the one inside, else max_position_embeddings.
  const std::int64_t inside = scaling.integer("original_max_position_embeddings", 0, 1, kMaxInt32);
  const std::int64_t beside = reader.integer("original_max_position_embeddings", 0, 1, kMaxInt32);
  if (inside != 0 && beside != 0 && inside != beside) {
    scaling.problem("original_max_position_embeddings",
                    fmt::format("is {}, but {} outside; remove the wrong one", inside, beside));
  }
  const std::int64_t length = beside != 0 ? beside : inside != 0 ? inside : config.max_position_embeddings;
  if (length == 0) scaling.problem("original_max_position_embeddings", "is missing");
  rope.original_max_position_embeddings = static_cast<double>(length);
}

}  // namespace

void read_rope_dictionary(ConfigReader& reader, ConfigReader& scaling, const ModelConfig& config,
                          nn::RopeParameters& rope) {
  scaling.require("partial_rotary_factor", {1}, kOnlyWholeHeads);
  if (scaling.has("rope_theta")) {
    const double inside = scaling.number("rope_theta", std::nullopt, 0);
    if (reader.has("rope_theta") && inside != rope.theta) {
      scaling.problem("rope_theta", fmt::format("is {}, but {} outside; remove the wrong one", inside, rope.theta));
    }
    rope.theta = inside;
  }
  scaling.ignore("rope_theta");
  if (!read_type(scaling, rope)) return;
  if (rope.type != nn::RopeType::kDefault) rope.factor = scaling.number("factor", std::nullopt, 0);
  if (rope.type == nn::RopeType::kLlama3) read_llama3(reader, scaling, config, rope);
  scaling.refuse_unknown("It has no meaning for this rope_type; remove it if it is not meant to change the positions.");
}

nn::RopeParameters read_rope(ConfigReader& reader, const ModelConfig& config, double default_theta) {
  nn::RopeParameters rope;
  rope.theta = reader.number("rope_theta", default_theta, 0);
  reader.require("partial_rotary_factor", {1}, kOnlyWholeHeads);
  reader.ignore("original_max_position_embeddings");  // read with llama3 alone, as transformers does
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
  read_rope_dictionary(reader, scaling, config, rope);
  return rope;
}

}  // namespace adept::model
