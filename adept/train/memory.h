// Where the memory of a training step is.
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
  std::int64_t weights = 0;      ///< what the forward pass reads, apart from masters
  std::int64_t masters = 0;      ///< fp32 weights of what trains; the forward pass reads these
  std::int64_t moments = 0;      ///< the optimizer's
  std::int64_t activations = 0;  ///< the most that the graph of a micro-batch kept for its backward pass
  /// fp32, of what trains; a trained head's is made with the loss and counts above as well
  std::int64_t gradients = 0;
  std::int64_t work_space = 0;  ///< what the peak has beyond these: a chunk's logits, results on their way
  std::int64_t cache = 0;       ///< the activation cache: a file on the disk, of which nothing stays in memory
  /// the most at once, without the cache; less than the sum where gradients come as activations go
  std::int64_t peak = 0;
};
Json to_json(const MemoryUse& memory);

/// "2.1 GB at most; weights 538.1 MB, masters 56.7 MB, ...": what there is; "at most" of a step.
std::string describe(const MemoryUse& memory);

/// What is there between steps: no activations, no gradients, no work space.
MemoryUse resident_memory(const model::Decoder& decoder, const Trainable& trainable, const optim::AdamW& optimizer);

/// The memory that a step takes beside what is there before it. The kernels' own, which stays as large as it ever was,
/// is the step's.
class StepBytes {
 public:
  /// The step begins. One at a time: it resets the peak of the device.
  explicit StepBytes(at::Device device);
  /// The most at once, so far.
  std::int64_t most() const;

 private:
  at::Device device_;
  std::int64_t before_;
};

/// `resident` and a step of so many micro-batches, which at its peak had `step_bytes` beside it.
MemoryUse step_memory(MemoryUse resident, const StepResult& step, std::int64_t num_micro_batches,
                      std::int64_t step_bytes);

}  // namespace adept::train
