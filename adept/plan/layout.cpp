#include "adept/plan/layout.h"

#include <ATen/ops/empty.h>

#include <string>
#include <utility>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/model/torch_tensors.h"
#include "adept/train/methods.h"

namespace adept::plan {
namespace {

std::optional<method::Expansion> expansion_of(const config::RunConfig& config, const model::ModelConfig& base,
                                              std::span<const int> after) {
  if (!config.expands()) return std::nullopt;
  const int depth = static_cast<int>(base.num_hidden_layers);
  method::Expansion expansion;
  expansion.base_num_hidden_layers = depth;
  expansion.layers = method::place_copies(after, depth);
  return expansion;
}

std::shared_ptr<train::ShardedLayers> divide(model::Decoder& decoder, std::int64_t ranks, const train::Trains& trains) {
  const auto base =
      std::make_shared<train::ShardedLayers>(static_cast<int>(ranks), decoder.config(), trains, decoder.dtype());
  for (std::int64_t l = 0; l < decoder.num_layers(); ++l)
    base->take(l, model::layer_parameters(decoder.weights(), l), trains);
  base->reserve();
  decoder.weights().source = base;
  return base;
}

// train::InitialValues.
at::Tensor initial_values(const model::Parameter& p, const at::Tensor& rows) {
  std::vector<std::int64_t> shape = p.shape;
  if (rows.defined()) shape.front() = rows.size(0);
  return at::empty(shape, at::TensorOptions(at::kFloat).device(at::kMeta));
}

}  // namespace

Layout::Layout(const config::RunConfig& config, const model::ModelConfig& base, const io::WeightFiles& files,
               std::span<const int> after, std::int64_t ranks)
    : ranks_(ranks),
      dtype_(model::to_scalar_type(config.compute.decided_dtype())),
      expansion_(expansion_of(config, base, after)),
      decoder_(without_values(base, files, dtype_, expansion_)),
      base_(config.dist.shard_base ? divide_base(config) : nullptr),
      trainable_(decoder_, train::trained_tensors(config, decoder_, expansion_, files.directory(), initial_values),
                 {.rank = 0, .size = static_cast<int>(ranks)}),
      optimizer_(trainable_.parameters(), config.train.adamw) {
  for (std::size_t i = 0; i < trainable_.parameters().size(); ++i) {
    const optim::Parameter& p = trainable_.parameters()[i];
    const std::int64_t layer = trainable_.layer_of(i);
    trained_[layer] += p.numel();
    kept_gradients_[layer] += trainable_.is_divided(i) ? p.master.numel() : p.numel();
  }
}

model::Decoder without_values(const model::ModelConfig& base, const io::WeightFiles& files, at::ScalarType dtype,
                              const std::optional<method::Expansion>& expansion) {
  const std::string where = files.directory().string();
  model::ModelConfig config =
      expansion ? model::parse_model_config(method::expand_config(base, expansion->layers, where), where) : base;
  model::Weights weights;
  for (const model::Parameter& p : model::named_parameters(config, weights)) {
    // Where the type matters, a matrix is frozen, and a layer of the base.
    const io::TensorView* stored = files.find(p.name);
    const bool keeps_type = p.is_matrix() && dtype == at::kFloat && stored != nullptr;
    *p.tensor = at::empty(
        p.shape, at::TensorOptions(keeps_type ? model::to_scalar_type(stored->dtype) : dtype).device(at::kMeta));
  }
  if (config.tie_word_embeddings) weights.lm_head = weights.embed_tokens;
  return {std::move(config), std::move(weights)};
}

std::shared_ptr<train::ShardedLayers> Layout::divide_base(const config::RunConfig& config) {
  return divide(decoder_, ranks_,
                [&](const model::Parameter& p) { return train::trains(config, decoder_.config(), expansion_, p); });
}

MeasuredBytes measured_bytes(const config::RunConfig& config, const model::ModelConfig& base,
                             const io::WeightFiles& files, std::span<const int> after, std::int64_t ranks) {
  const std::optional<method::Expansion> expansion = after.empty() ? std::nullopt : expansion_of(config, base, after);
  model::Decoder decoder =
      without_values(base, files, model::to_scalar_type(config.compute.decided_dtype()), expansion);
  MeasuredBytes bytes;
  if (config.dist.shard_base)
    bytes.largest_divided_layer =
        divide(decoder, ranks, [](const model::Parameter&) { return false; })->largest_layer_bytes();
  bytes.weights = train::weight_bytes(decoder);
  return bytes;
}

at::ScalarType Layout::stored_dtype() const {
  model::Weights weights = decoder_.weights();
  for (const model::Parameter& p : model::named_parameters(decoder_.config(), weights))
    if (p.layer >= 0 && p.is_matrix() && !p.tensor->requires_grad()) return p.tensor->scalar_type();
  return decoder_.dtype();
}

double Layout::bytes_gathered() const {
  if (base_ == nullptr) return 0;
  return static_cast<double>(base_->bytes_received(0) + base_->bytes_received(trainable_.lowest_of_any_graph()));
}

double Layout::bytes_scattered() const {
  return base_ == nullptr ? 0 : static_cast<double>(base_->gradient_bytes_received());
}

std::int64_t Layout::trained(std::int64_t layer) const {
  const auto found = trained_.find(layer);
  return found == trained_.end() ? 0 : found->second;
}

std::int64_t Layout::kept_gradients(std::int64_t layer) const {
  const auto found = kept_gradients_.find(layer);
  return found == kept_gradients_.end() ? 0 : found->second;
}

std::int64_t Layout::all_kept_gradients() const {
  std::int64_t elements = 0;
  for (const auto& [layer, count] : kept_gradients_) elements += count;
  return elements;
}

Use Layout::use(std::int64_t layer) const {
  if (trained(layer) > 0) return Use::kTrained;
  return layer >= trainable_.lowest_of_any_graph() ? Use::kFrozen : Use::kWithoutGraph;
}

}  // namespace adept::plan
