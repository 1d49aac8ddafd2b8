// Llama 1 to 3, SmolLM and everything that saves itself as LlamaForCausalLM.
// https://huggingface.co/docs/transformers/model_doc/llama
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace {

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config);
  read_eos_tokens(reader, config, 2);
  config.qkv_bias = config.o_bias = reader.boolean("attention_bias", false);
  config.mlp_bias = reader.boolean("mlp_bias", false);
  reader.require("pretraining_tp", {1}, "Sliced projections round differently; set it to 1 if that is meant.");
  reader.require("rope_interleaved", {false}, "Interleaved rotary positions need permuted q and k weights.");
  read_layer_types(reader, config, 0, 0, "Llama has no sliding window");
}

}  // namespace

extern const Architecture kLlama;
constexpr Architecture kLlama{"llama", "LlamaForCausalLM", read};

}  // namespace adept::model
