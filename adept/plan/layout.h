// The model as a configuration trains it, without values: shapes and types on the device meta, made by the same code as
// in a training.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "adept/config/run_config.h"
#include "adept/io/weight_files.h"
#include "adept/method/expansion.h"
#include "adept/model/decoder.h"
#include "adept/optim/adamw.h"
#include "adept/plan/rehearsal.h"
#include "adept/train/memory.h"
#include "adept/train/sharded_layers.h"
#include "adept/train/trainable.h"

namespace adept::plan {

/// The model without values, expanded where there is an expansion. Frozen matrices keep the type of their file as in a
/// training.
model::Decoder without_values(const model::ModelConfig& base, const io::WeightFiles& files, at::ScalarType dtype,
                              const std::optional<method::Expansion>& expansion);

/// Bytes of a rank for a model that is measured.
struct MeasuredBytes {
  std::int64_t weights = 0;
  std::int64_t largest_divided_layer = 0;  ///< 0: layers are not divided
};

/// Of the base, or with `after` of what a training of its copies exports.
MeasuredBytes measured_bytes(const config::RunConfig& config, const model::ModelConfig& base,
                             const io::WeightFiles& files, std::span<const int> after, std::int64_t ranks);

class Layout {
 public:
  static constexpr std::int64_t kOutside = -1;  ///< the layer of tensors outside the layers

  /// `after`: base layers that get copies, ascending, repeated per copy; used where the configuration expands.
  Layout(const config::RunConfig& config, const model::ModelConfig& base, const io::WeightFiles& files,
         std::span<const int> after, std::int64_t ranks);

  std::int64_t ranks() const { return ranks_; }
  at::ScalarType dtype() const { return dtype_; }  ///< of the computation
  at::ScalarType stored_dtype() const;             ///< of frozen matrices
  const model::Decoder& decoder() const { return decoder_; }
  const train::Trainable& trainable() const { return trainable_; }

  /// Of a rank, between steps.
  train::MemoryUse resident() const { return train::resident_memory(decoder_, trainable_, optimizer_); }
  bool is_divided(std::int64_t layer) const { return base_ != nullptr && base_->is_sharded(layer); }
  /// Bytes of the largest divided layer; 0: layers are not divided.
  std::int64_t largest_divided_layer() const { return base_ == nullptr ? 0 : base_->largest_layer_bytes(); }
  /// Bytes that a rank sends for the divided layers of a micro-batch, and for their gradients.
  double bytes_gathered() const;
  double bytes_scattered() const;

  /// Trained elements of a layer, or outside the layers.
  std::int64_t trained(std::int64_t layer) const;
  /// Of them, those whose gradient this rank keeps.
  std::int64_t kept_gradients(std::int64_t layer) const;
  std::int64_t all_kept_gradients() const;
  Use use(std::int64_t layer) const;

 private:
  std::shared_ptr<train::ShardedLayers> divide_base(const config::RunConfig& config);

  std::int64_t ranks_;
  at::ScalarType dtype_;
  std::optional<method::Expansion> expansion_;
  model::Decoder decoder_;
  std::shared_ptr<train::ShardedLayers> base_;  // null: not divided
  train::Trainable trainable_;
  optim::AdamW optimizer_;
  std::map<std::int64_t, std::int64_t> trained_, kept_gradients_;
};

}  // namespace adept::plan
