// Qwen2 and Qwen2.5: Llama with biases on q, k and v, and optional sliding windows in the upper layers.
// https://huggingface.co/docs/transformers/model_doc/qwen2
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace {

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config, /*default_kv_heads=*/32);
  read_eos_tokens(reader, config, std::nullopt);
  config.qkv_bias = true;
  reader.require("use_mrope", {false}, "Multimodal rotary positions are not implemented.");
  read_qwen_windows(reader, config);
}

}  // namespace

extern const Architecture kQwen2;
constexpr Architecture kQwen2{"qwen2", "Qwen2ForCausalLM", read};

}  // namespace adept::model
