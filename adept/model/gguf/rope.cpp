// rope_type "llama3" and "longrope" from the tensors that llama.cpp's converter (convert_hf_to_gguf.py) writes for
// them: the divisors of the rotary frequencies, one per pair of dimensions.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "adept/model/gguf/config.h"

namespace adept::model {
namespace {

struct Llama3Scaling {
  double factor;
  double low_freq_factor;
  double high_freq_factor;
  std::int64_t original_context;  // tokens
};

// What a rotary frequency is divided by. https://arxiv.org/abs/2407.21783, section 3.4.2, as transformers computes it.
double divisor(const Llama3Scaling& scaling, double frequency) {
  const double context = static_cast<double>(scaling.original_context);
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < context / scaling.high_freq_factor) return 1;
  if (wavelength > context / scaling.low_freq_factor) return scaling.factor;
  const double smooth =
      (context / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

// The largest relative difference between the factors and those of `scaling`.
double worst_error(const std::vector<float>& factors, const Llama3Scaling& scaling, double rope_theta) {
  double worst = 0;
  const double dimensions = 2.0 * static_cast<double>(factors.size());
  for (std::size_t pair = 0; pair < factors.size(); ++pair) {
    const double frequency = std::pow(rope_theta, -2.0 * static_cast<double>(pair) / dimensions);
    const double expected = divisor(scaling, frequency);
    worst = std::max(worst, std::abs(static_cast<double>(factors[pair]) / expected - 1));
  }
  return worst;
}

}  // namespace

Json recover_llama3_scaling(const std::vector<float>& factors, double rope_theta, std::vector<std::string>& problems) {
  constexpr double kRounding = 3e-6;  // the converter computes in fp32, some twenty roundings per factor
  const bool usable = std::ranges::all_of(factors, [](float factor) { return std::isfinite(factor) && factor > 0; });
  if (usable && std::ranges::all_of(factors, [](float factor) { return factor == 1.0f; })) return nullptr;
  if (usable) {
    const double factor = factors.back();  // of the lowest frequency, which every such model scales fully
    for (std::int64_t context = 8; context <= (std::int64_t{1} << 24); context *= 2) {
      for (const double low : {1.0, 2.0}) {
        for (const double high : {4.0, 2.0, 3.0, 8.0, 16.0, 32.0}) {
          if (high <= low) continue;
          const Llama3Scaling scaling{factor, low, high, context};
          if (!(worst_error(factors, scaling, rope_theta) <= kRounding)) continue;
          return Json{{"rope_type", "llama3"},
                      {"factor", factor},
                      {"low_freq_factor", low},
                      {"high_freq_factor", high},
                      {"original_max_position_embeddings", context}};
        }
      }
    }
  }
  problems.push_back(
      "the rotary factors in \"rope_freqs.weight\" are not those of any llama3 scaling with round parameters, and no "
      "other can be expressed in a config.json");
  return nullptr;
}

void read_gguf_longrope(GgufReader& reader, const GgufModel& model, Json& config) {
  config["partial_rotary_factor"] = static_cast<double>(model.rotary_dim) / static_cast<double>(model.head_dim);
  const std::int64_t original = reader.integer("rope.scaling.original_context_length", model.context_length, 1);
  config["original_max_position_embeddings"] = original;
  const double attention_factor = reader.positive_number("rope.scaling.attn_factor", 1);
  Json scaling{{"rope_type", "longrope"}};
  for (const auto& [name, key] :
       {std::pair{"rope_factors_short.weight", "short_factor"}, {"rope_factors_long.weight", "long_factor"}}) {
    const io::GgufTensor* tensor = reader.file().find(name);
    if (!tensor) continue;
    if (tensor->shape != std::vector<std::int64_t>{model.rotary_dim / 2}) {
      reader.problem("\"{}\" is {}; expected [{}], half the dimensions that rotate", name, describe(*tensor),
                     model.rotary_dim / 2);
      return;
    }
    std::vector<float> factors(static_cast<std::size_t>(tensor->num_elements()));
    io::dequantize(*tensor, factors);
    scaling[key] = factors;
  }
  if (scaling.size() == 2)
    reader.problem(
        "has one of the tensors \"rope_factors_short.weight\" and "
        "\"rope_factors_long.weight\"; expected both, or none");
  if (scaling.size() == 1 && attention_factor != 1)
    reader.problem("has a \"{}\" but no tensor \"rope_factors_long.weight\"", reader.full("rope.scaling.attn_factor"));
  if (scaling.size() < 3) return;
  if (!config["rope_scaling"].is_null())
    reader.problem("has both \"rope_factors_long.weight\" and another rotary scaling; only one can be expressed");
  scaling["attention_factor"] = attention_factor;
  config["rope_scaling"] = std::move(scaling);
}

}  // namespace adept::model
