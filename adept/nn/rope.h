// Rotary position embeddings (Su et al., arXiv 2104.09864), in the "rotate half" layout of transformers.
//
// Legend: B sequences, H heads, T tokens, E = head_dim (even).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace adept::nn {

enum class RopeType { kDefault, kLinear, kLlama3 };

/// What decides the frequencies. https://huggingface.co/docs/transformers/internal/rope_utils
struct RopeParameters {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                          ///< linear, llama3: context extension
  double low_freq_factor = 1.0;                 ///< llama3
  double high_freq_factor = 4.0;                ///< llama3
  double original_max_position_embeddings = 0;  ///< llama3: context length of the base training, tokens
};

/// Cosines and sines of positions 0 .. T-1.
struct RopeTables {
  at::Tensor cos;  ///< (T, E/2)
  at::Tensor sin;  ///< (T, E/2)
};

/// Frequencies in radians per token: (head_dim/2) fp32, on the CPU.
at::Tensor rope_frequencies(const RopeParameters& parameters, std::int64_t head_dim);

/// Tables for positions 0 .. length-1, computed in fp32 and rounded to `dtype`, on `device`.
RopeTables rope_tables(const RopeParameters& parameters, std::int64_t head_dim, std::int64_t length,
                       at::ScalarType dtype = at::kFloat, at::Device device = at::kCPU);

/// Rotates x (B, H, T, E) by the angles of tables (T, E/2): (x1 cos - x2 sin, x2 cos + x1 sin) for the halves x1, x2 of
/// the last dimension. The tables have x's dtype. The gradient saves nothing but the tables.
at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables);

}  // namespace adept::nn
