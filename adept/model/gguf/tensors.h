// The tensors of a GGUF file under their Hugging Face names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adept/core/dtype.h"
#include "adept/io/gguf.h"
#include "adept/model/gguf/config.h"

namespace adept::model {

/// One tensor to write.
struct GgufTensorPlan {
  const io::GgufTensor* source = nullptr;
  std::string name;                    ///< "model.layers.7.self_attn.q_proj.weight"
  std::int64_t interleaved_heads = 0;  ///< heads whose rows must be put back in order; 0 = none
  double offset = 0;                   ///< GGUF has what takes effect: the value and this
};

/// Every tensor of the model, in the order of the computation. Throws DataError with all problems: missing tensors,
/// wrong shapes, and tensors of the file that the architecture does not have (by name).
std::vector<GgufTensorPlan> plan_gguf_tensors(const io::GgufFile& file, const GgufModel& model);

/// Dequantises into `out`, num_elements * dtype_size(dtype) bytes, as F32, BF16 or F16 (rounded to nearest even).
/// Returns what is wrong with the values: empty, or that one is not finite, or beyond the range of F16 or BF16.
std::string convert_gguf_tensor(const GgufTensorPlan& plan, DType dtype, std::span<std::byte> out);

}  // namespace adept::model
