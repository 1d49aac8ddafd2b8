// The trained tensors of an expanded model: fp32 masters and gradients, and the copies that the forward pass reads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "adept/io/weight_files.h"
#include "adept/method/expansion.h"
#include "adept/model/decoder.h"
#include "adept/optim/adamw.h"

namespace adept::train {

/// Makes the expanded layers of a decoder trainable and keeps everything else frozen.
///
/// In fp32 the decoder reads the masters themselves and autograd adds straight into the gradients. In bf16 the decoder
/// has copies, whose bf16 gradients are added to the fp32 ones after every micro-batch.
class Trainable {
 public:
  /// Replaces the slots of the expanded layers in decoder.weights(); the masters come from `files` in full precision.
  Trainable(model::Decoder& decoder, const method::Expansion& expansion, const io::WeightFiles& files);

  /// Name, master and gradient of every trained tensor. The units partition what is trained: checked at construction.
  const std::vector<optim::Parameter>& parameters() const { return parameters_; }
  /// Index of the lowest trained layer; below it nothing needs a graph.
  int lowest_layer() const { return lowest_layer_; }
  std::int64_t num_parameters() const;

  void zero_gradients();
  /// Adds what the last backward pass left to the fp32 gradients. Nothing to do in fp32.
  void accumulate_gradients();
  /// Shows changed masters to the decoder. Nothing to do in fp32.
  void publish();

 private:
  std::vector<optim::Parameter> parameters_;
  std::vector<at::Tensor> leaves_;  // what the decoder reads, in the order of parameters_
  int lowest_layer_ = 0;
};

/// Content hash of every tensor that is not trained, as it is in memory.
std::string frozen_hash(const model::Decoder& decoder, const method::Expansion& expansion);

}  // namespace adept::train
