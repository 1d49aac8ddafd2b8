// The tensors of a decoder, and the one table between them and their Hugging Face names.
//
// Legend: D hidden_size, H heads, K key-value heads, E head_dim, F intermediate_size, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "adept/model/config.h"
#include "adept/nn/linear.h"

namespace adept::model {

/// y = x weight^T + bias, and what an adapter adds.
struct LinearWeights {
  at::Tensor weight;        ///< (out, in)
  at::Tensor bias;          ///< (out), undefined where the architecture has none
  nn::LoraAdapter adapter;  ///< none, unless LoRA is trained
};

/// One decoder layer. Tensors that the architecture does not have are undefined.
struct LayerWeights {
  at::Tensor input_layernorm;           ///< (D)
  LinearWeights q_proj;                 ///< (H E, D)
  LinearWeights k_proj;                 ///< (K E, D)
  LinearWeights v_proj;                 ///< (K E, D)
  LinearWeights o_proj;                 ///< (D, H E)
  at::Tensor q_norm;                    ///< (E)
  at::Tensor k_norm;                    ///< (E)
  at::Tensor post_attention_layernorm;  ///< (D)
  LinearWeights gate_proj;              ///< (F, D)
  LinearWeights up_proj;                ///< (F, D)
  LinearWeights down_proj;              ///< (D, F)
};

/// A whole decoder. Copies share the tensors, as ATen handles do. Frozen matrices may be of a narrower type than the
/// compute dtype, which is that of the norms.
struct Weights {
  at::Tensor embed_tokens;  ///< (V, D)
  std::vector<LayerWeights> layers;
  at::Tensor norm;     ///< (D)
  at::Tensor lm_head;  ///< (V, D); the same tensor as embed_tokens when the head is tied
};

/// One row of the name table.
struct NamedTensor {
  std::string name;                 ///< "model.layers.7.self_attn.q_proj.weight"
  std::string unit;                 ///< the name within its layer, "self_attn.q_proj.weight"; the name itself outside
  std::int64_t layer = -1;          ///< index of the layer, -1 outside the layers
  std::vector<std::int64_t> shape;  ///< as the config demands
  at::Tensor* tensor = nullptr;     ///< the slot in the Weights that the table was made for
};

/// Every parameter that `config` demands, in the order of the computation, with its slot in `weights` (whose `layers`
/// is resized to the config's depth). A tied head is not listed: it has no tensor of its own.
std::vector<NamedTensor> named_parameters(const ModelConfig& config, Weights& weights);

/// The parameters of one layer only: the units of METHOD.md, section 3.
std::vector<NamedTensor> layer_parameters(const ModelConfig& config, Weights& weights, std::int64_t layer);

/// A projection of a layer.
struct NamedLinear {
  std::string name;         ///< "model.layers.7.self_attn.q_proj"
  std::string module_name;  ///< "q_proj"
  std::int64_t layer = 0;
  LinearWeights* linear = nullptr;
};

/// The projections of all layers (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj), in the order of the
/// computation.
std::vector<NamedLinear> named_linears(Weights& weights);

/// "model.layers.7.self_attn.q_proj.weight" from (7, "self_attn.q_proj.weight").
std::string layer_parameter_name(std::int64_t layer, std::string_view unit);

/// The inverse: false for a name that does not start with "model.layers.<index>.".
bool split_layer_parameter_name(std::string_view name, std::int64_t& layer, std::string& unit);

/// Number of elements of all parameters, a tied head counted once.
std::int64_t num_parameters(const ModelConfig& config);

/// Names of the parameters that hold a NaN or an infinity; reads every weight once.
std::vector<std::string> non_finite_parameters(const ModelConfig& config, const Weights& weights);

}  // namespace adept::model
