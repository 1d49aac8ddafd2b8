// What a config.json of the Hugging Face layout says about a decoder, checked before anything is allocated.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/dtype.h"
#include "adept/core/json.h"
#include "adept/model/layer.h"
#include "adept/nn/embedding.h"
#include "adept/nn/rope.h"

namespace adept::model {

/// A decoder: its dimensions, by the names of config.json, and its layers, which say everything else.
struct ModelConfig {
  std::string model_type;  ///< "llama"
  std::int64_t num_hidden_layers = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0;  ///< tokens; a hint, nothing here is limited by it
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  nn::EmbeddingScale embedding_scale;
  double logit_divisor = 1;                 ///< logits are divided by it
  double logit_soft_cap = 0;                ///< and become logit_soft_cap tanh(logit / logit_soft_cap); 0: they stay
  std::vector<nn::RopeParameters> ropes;    ///< rotary frequencies: Attention::rope says which
  std::vector<Layer> layers;                ///< num_hidden_layers, without tensors
  Norm norm;                                ///< after the last layer; without a tensor
  std::vector<std::int64_t> eos_token_ids;  ///< in 0 .. vocab_size-1; empty: never ends by itself
  std::vector<std::string> dropout;         ///< "attention_dropout 0.1": in training alone, where adept uses none
  std::optional<DType> dtype;               ///< torch_dtype / dtype: the dtype of the saved weights; a hint
  Json source;                              ///< the file as read, in its key order, for writing it back
};

/// Reads and checks `source`; `where` names the file in messages. Every key is understood, known to be harmless, or
/// refused by name. Throws DataError with all problems at once.
ModelConfig parse_model_config(const Json& source, const std::string& where);

/// Reads model_dir/config.json. Throws DataError.
ModelConfig read_model_config(const std::filesystem::path& model_dir);

}  // namespace adept::model
