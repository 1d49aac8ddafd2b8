#include "adept/plan/narrow.h"

namespace adept::plan {
namespace {

constexpr std::int64_t kLeastWidth = 512;

}  // namespace

model::ModelConfig narrow_by(const model::ModelConfig& model, std::int64_t factor) {
  if (factor == 1) return model;
  Json source = model.source;  // may leave a key to the architecture's default, which is not narrower
  source["hidden_size"] = model.hidden_size / factor;
  source["intermediate_size"] = model.intermediate_size / factor;
  source["num_attention_heads"] = model.num_attention_heads / factor;
  source["num_key_value_heads"] = model.num_key_value_heads / factor;
  return model::parse_model_config(source, "a narrower model");
}

Narrow narrowed(const model::ModelConfig& model) {
  std::int64_t factor = 1;
  const auto fits = [&](std::int64_t by) {
    return model.hidden_size >= kLeastWidth * by && model.hidden_size % by == 0 && model.intermediate_size % by == 0 &&
           model.num_attention_heads % by == 0 && model.num_key_value_heads % by == 0;
  };
  while (fits(2 * factor)) factor *= 2;
  return {.model = narrow_by(model, factor), .factor = factor};
}

}  // namespace adept::plan
