// Qwen3 (dense): RMS norms of each head's queries and keys, a head_dim of its own.
// https://huggingface.co/docs/transformers/model_doc/qwen3
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace {

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config, /*default_kv_heads=*/32, /*default_head_dim=*/128);
  read_eos_tokens(reader, config, std::nullopt);
  config.qk_norm = true;
  config.qkv_bias = config.o_bias = reader.boolean("attention_bias", false);
  read_qwen_windows(reader, config);
}

}  // namespace

extern const Architecture kQwen3;
constexpr Architecture kQwen3{"qwen3", "Qwen3ForCausalLM", read};

}  // namespace adept::model
