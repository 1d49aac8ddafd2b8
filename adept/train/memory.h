// Memory use of a training step.
#pragma once

#include <cstdint>
#include <string>

#include "adept/core/json.h"
#include "adept/model/decoder.h"
#include "adept/optim/adamw.h"
#include "adept/train/step.h"
#include "adept/train/trainable.h"

namespace adept::train {

/// Bytes of tensors on the decoder's device, each counted once, and of the activation cache.
struct MemoryUse {
  std::int64_t weights = 0;      ///< weights that the forward pass reads, except masters
  std::int64_t masters = 0;      ///< fp32 weights of trained tensors, which the forward pass may read as well
  std::int64_t moments = 0;      ///< the optimizer's
  std::int64_t activations = 0;  ///< maximum kept by the graph of a micro-batch for its backward pass
  /// fp32, of trained tensors; a trained head's is created with the loss and also counts as an activation
  std::int64_t gradients = 0;
  std::int64_t work_space = 0;  ///< the rest of the peak: a chunk's logits, intermediate results
  std::int64_t cache = 0;       ///< the activation cache: a file on disk, not in memory
  /// the peak, without the cache; less than the sum if gradients replace activations
  std::int64_t peak = 0;
};
Json to_json(const MemoryUse& memory);

/// "2.1 GB; weights 538.1 MB, masters 56.7 MB, ...": the peak and its non-empty parts.
std::string describe(const MemoryUse& memory);

/// Bytes of the decoder's tensors, each counted once; where processes share the layers, those of this one.
std::int64_t weight_bytes(const model::Decoder& decoder);

/// Memory between steps: no activations, gradients or work space.
MemoryUse resident_memory(const model::Decoder& decoder, const Trainable& trainable, const optim::AdamW& optimizer);

/// The memory that a step adds to the memory before it. Kernel buffers, which never shrink, count as the step's.
class StepBytes {
 public:
  /// Starts a step. Only one at a time: it resets the peak of the device.
  explicit StepBytes(at::Device device);
  /// The peak so far.
  std::int64_t most() const;

 private:
  at::Device device_;
  std::int64_t before_;
};

/// `resident` plus a step with this many micro-batches that added `step_bytes` at its peak.
MemoryUse step_memory(MemoryUse resident, const StepResult& step, std::int64_t num_micro_batches,
                      std::int64_t step_bytes);

}  // namespace adept::train
