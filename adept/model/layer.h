// What a decoder layer consists of. An architecture composes these parts (model/architectures/); everything else walks
// the composition: the forward pass, names and shapes of weights, identity copies, units, adapters, costs, GGUF.
//
// Legend: D hidden_size, H query heads, K key-value heads, E head_dim, F neurons of the feed-forward.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adept/nn/attention.h"
#include "adept/nn/gate.h"
#include "adept/nn/linear.h"
#include "adept/nn/rms_norm.h"

namespace adept::model {

/// What a parameter does, whatever an architecture calls it.
enum class Role {
  kNorm,            ///< the gain of a norm
  kProjection,      ///< weight or bias of a projection
  kResidualOutput,  ///< the last that scales what a branch adds to the residual stream: where it is 0, nothing is added
  kEmbedding,
  kHead,
};

/// What the slices of a parameter along one dimension belong to.
enum class Axis { kNone, kHead, kNeuron };

/// How a parameter falls into heads or neurons.
struct Slices {
  Axis axis = Axis::kNone;
  std::int64_t dim = 0;                  ///< 0: rows, 1: columns
  std::int64_t size = 1;                 ///< slices of one head (E) or neuron (1)
  std::vector<std::int64_t> sections{};  ///< slices of each matrix that is stored in one: H E, K E, K E of a fused qkv
};

/// A row of the table of parameters.
struct Parameter {
  std::string name;                 ///< "model.layers.7.self_attn.q_proj.weight"
  std::string local_name;           ///< the name within its layer, "self_attn.q_proj.weight"; the name itself outside
  std::int64_t layer = -1;          ///< index of the layer, -1 outside the layers
  std::vector<std::int64_t> shape;  ///< as the config demands
  Role role = Role::kProjection;
  Slices slices;
  double offset = 0;      ///< stored value + offset = what takes effect; 1 for gains that are stored as w of 1 + w
  std::string gguf_name;  ///< in the files of llama.cpp: "blk.7.attn_q.weight"
  std::int64_t gguf_heads = 0;   ///< heads whose rows are interleaved in GGUF; 0: rows are as here
  at::Tensor* tensor = nullptr;  ///< the slot in the weights that the table was made for

  bool is_matrix() const { return shape.size() > 1; }
  std::int64_t numel() const;
};

/// An RMS norm.
struct Norm {
  std::string_view name;       ///< "input_layernorm"; its parameter is this and ".weight"
  std::string_view gguf_name;  ///< "attn_norm"
  std::int64_t width = 0;
  double eps = 0;
  nn::GainConvention gain = nn::GainConvention::kRounded;
  at::Tensor weight{};  ///< (width)

  at::Tensor operator()(const at::Tensor& x) const { return nn::rms_norm(x, weight, eps, gain); }
  /// Parameter::offset of its gain.
  double offset() const { return gain == nn::GainConvention::kOnePlus ? 1 : 0; }
};

/// A matrix and perhaps a bias.
struct Projection {
  std::string_view name;       ///< "self_attn.q_proj"; its parameters are this and ".weight" or ".bias"
  std::string_view gguf_name;  ///< "attn_q"
  std::int64_t rows = 0;       ///< of what comes out
  std::int64_t columns = 0;    ///< of what goes in
  bool has_bias = false;
  std::vector<std::int64_t> sections{};  ///< rows of each projection where several are stored as one; empty: one
  std::int64_t gguf_heads = 0;           ///< heads whose rows are interleaved in GGUF
  nn::Linear linear{};

  /// "q_proj": how adapters call it.
  std::string_view module_name() const { return name.substr(name.rfind('.') + 1); }
};

/// Causal attention with grouped queries and rotary positions.
struct Attention {
  std::int64_t num_heads = 0;              ///< H
  std::int64_t num_kv_heads = 0;           ///< K
  std::int64_t head_dim = 0;               ///< E
  std::vector<Projection> inputs;          ///< q, k and v, in this order, apart or fused
  std::optional<Norm> q_norm{}, k_norm{};  ///< of each head's queries and keys (width E), or of all heads' at once
  Projection output;                       ///< (D, H E)
  std::size_t rope = 0;                    ///< index of the rotary frequencies in ModelConfig::ropes
  std::int64_t window = 0;                 ///< tokens that a query sees, itself included; 0: all
  nn::Scoring scoring{};                   ///< of queries and keys

  bool norms_whole_width() const { return q_norm && q_norm->width > head_dim; }
};

/// activation(gate(x)) * up(x), projected.
struct FeedForward {
  std::int64_t num_neurons = 0;  ///< F
  nn::Activation activation = nn::Activation::kSilu;
  std::vector<Projection> inputs;  ///< gate and up, in this order, apart or fused
  Projection output;               ///< (D, F)
};

/// h -> h + multiplier * post_norm(body(pre_norm(h))); a norm that is not there is the identity.
template <typename Body>
struct Branch {
  std::optional<Norm> pre_norm{};
  Body body;
  std::optional<Norm> post_norm{};
  double multiplier = 1;
};

/// One decoder layer. Copies share the tensors, as ATen handles do.
struct Layer {
  Branch<Attention> attention;
  Branch<FeedForward> feed_forward;
};

/// The parameters of a layer in the order of the computation; name is local_name, gguf_name is that within the block.
std::vector<Parameter> parameters_of(Layer& layer);

/// The projections of a layer in the order of the computation.
std::vector<Projection*> projections_of(Layer& layer);
std::vector<const Projection*> projections_of(const Layer& layer);

/// What two layers would compute differently with the same weights: what the first does, and what the second would.
struct LayerDifference {
  std::string does, would;  ///< "sees 0 tokens (0 = all)", "see 5"
};
std::optional<LayerDifference> difference(const Layer& a, const Layer& b);

}  // namespace adept::model
