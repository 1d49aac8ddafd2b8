// The tensors of a decoder, and the one table between them and their Hugging Face names.
//
// Legend: D hidden_size, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adept/model/config.h"
#include "adept/model/layer.h"
#include "adept/model/layer_source.h"
#include "adept/nn/embedding.h"

namespace adept::model {

/// A whole decoder. Copies share the tensors, as ATen handles do. Frozen matrices may be stored in another type than
/// what is computed in; `nn` converts them.
struct Weights {
  nn::Embedding embed_tokens;
  std::vector<Layer> layers;  ///< the config's, with tensors
  Norm norm;
  nn::Embedding lm_head;  ///< the same as embed_tokens when the head is tied
  std::shared_ptr<LayerSource> source{};  ///< of tensors in `layers`; null: all are in memory
};

/// Every parameter that `config` demands, in the order of the computation, with its slot in `weights`, which get the
/// config's layers where they have none. A tied head is not listed: it has no tensor of its own.
std::vector<Parameter> named_parameters(const ModelConfig& config, Weights& weights);

/// The parameters of one layer only.
std::vector<Parameter> layer_parameters(Weights& weights, std::int64_t layer);

/// A layer's residual outputs: where their effect is 0 the layer is the identity.
std::vector<Parameter> residual_outputs(Weights& weights, std::int64_t layer);

/// A projection of a layer.
struct NamedProjection {
  std::string name;         ///< "model.layers.7.self_attn.q_proj"
  std::string module_name;  ///< "q_proj"
  std::int64_t layer = 0;
  Projection* projection = nullptr;
};

/// The projections of all layers, in the order of the computation.
std::vector<NamedProjection> named_projections(std::vector<Layer>& layers);

/// "model.layers.7.self_attn.q_proj.weight" from (7, "self_attn.q_proj.weight").
std::string layer_parameter_name(std::int64_t layer, std::string_view local_name);

/// The inverse: false for a name that does not start with "model.layers.<index>.".
bool split_layer_parameter_name(std::string_view name, std::int64_t& layer, std::string& local_name);

/// Number of elements of all parameters, a tied head counted once.
std::int64_t num_parameters(const ModelConfig& config);

/// Those of one layer.
std::int64_t num_parameters(const Layer& layer);

}  // namespace adept::model
