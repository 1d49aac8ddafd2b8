// Arguments of operations that read memory once. adept/nn documents what they compute.
//
// Legend: N rows, D width, B sequences, H heads, T positions, E head_dim, V vocabulary.
#pragma once

#include <cstdint>

#include "adept/kernels/tensors.h"

namespace adept::kernels {

/// sum = x + y; flat and contiguous. The sum may take the place of either.
struct Addition {
  Element element = Element::kFloat;
  const void *x = nullptr, *y = nullptr;
  void* sum = nullptr;
};

/// The sum of the squares of each block of elements, in fp64; flat and contiguous.
struct SquareSums {
  static constexpr std::int64_t kBlock = 1 << 14;

  Element element = Element::kFloat;
  std::int64_t size = 0;
  const void* x = nullptr;
  double* sums = nullptr;  ///< (blocks)
};

/// How a norm's weight w scales n = x / rms(x), which is fp32 (fp64 for fp64).
enum class GainConvention {
  kRounded,  ///< n rounded to x's dtype, times w: Llama, Mistral, Qwen
  kWide,     ///< n w, then rounded: OLMo 2
  kOnePlus,  ///< n (1 + w), then rounded: Gemma
};

/// y = x / sqrt(mean(x^2) + eps), scaled by the weight. Rows are contiguous; grad_x may take the place of grad_y.
struct RmsNorm {
  Element element = Element::kFloat;
  GainConvention gain = GainConvention::kRounded;
  std::int64_t width = 0;  ///< D
  float eps = 0;
  const void* x = nullptr;       ///< (N, D)
  const void* weight = nullptr;  ///< (D)
  void* y = nullptr;             ///< (N, D): forward
  float* inverse_rms = nullptr;  ///< (N): forward: written unless null; backward: read
  const void* grad_y = nullptr;  ///< (N, D): backward
  void* grad_x = nullptr;        ///< (N, D): backward: written unless null
};

/// (x1 cos - sign x2 sin, x2 cos + sign x1 sin) of the halves x1, x2 of the first R dimensions of each head, and the
/// others as they are; y may take the place of x.
struct Rope {
  Element element = Element::kFloat;
  std::int64_t positions = 0, num_heads = 0, head_dim = 0;
  std::int64_t rotary_dim = 0;  ///< R, at most E
  float sign = 1;
  const void *cos = nullptr, *sin = nullptr;  ///< (T, R/2)
  std::int64_t table_stride = 0;              ///< of both, from sequence to sequence; 0: the same for all
  Heads x, y;
};

/// The non-linearity of a gate. Both are x sigmoid(z(x)).
enum class Activation {
  kSilu,      ///< z = x
  kGeluTanh,  ///< z = sqrt(8 / pi) (x + 0.044715 x^3): "gelu_pytorch_tanh", the tanh approximation of GELU
};

/// y = activation(gate) up; flat and contiguous.
struct Gate {
  Element element = Element::kFloat;
  Activation activation = Activation::kSilu;
  const void *gate = nullptr, *up = nullptr;
  void* y = nullptr;                              ///< forward
  const void* grad_y = nullptr;                   ///< backward
  void *grad_gate = nullptr, *grad_up = nullptr;  ///< backward: written unless null
};

/// loss = log sum exp(logits) - logits[target]; the logits' gradient, softmax - one_hot(target), takes their place.
/// With a soft cap the loss is that of soft_cap tanh(logits / soft_cap), and the gradient still that of the logits.
struct CrossEntropy {
  Element element = Element::kFloat;
  std::int64_t vocab_size = 0;
  void* logits = nullptr;                 ///< (N, V)
  const std::int64_t* targets = nullptr;  ///< (N), each in 0 .. V-1
  float* losses = nullptr;                ///< (N), nats
  float soft_cap = 0;                     ///< 0: none
  bool wants_gradient = false;
};

/// The softmax of rows that come some columns at a time: e^(logit - base) takes a logit's place. The base of a row is
/// near its largest logit so far; when it rises, what was added up before is scaled down (Milakov and Gimelshein,
/// "Online normalizer calculation for softmax", arXiv 1805.02867). With a soft cap all is about the capped logits,
/// soft_cap tanh(logit / soft_cap), and what takes a logit's place is multiplied by their derivative by the logit.
struct OnlineSoftmax {
  /// So that no number is too small to rise above.
  static constexpr float kFirstBase = -3e38f;

  Element element = Element::kFloat;
  std::int64_t first = 0, columns = 0;    ///< the classes first .. first + columns - 1
  void* logits = nullptr;                 ///< (N, columns)
  const std::int64_t* targets = nullptr;  ///< (N): any class
  float* base = nullptr;                  ///< (N): kFirstBase before the first columns
  double* sum = nullptr;                  ///< (N): of e^(logit - base)
  float* target_logits = nullptr;         ///< (N): written where the target is among these columns
  float* mixed = nullptr;                 ///< (N, width), relative to e^base, for the caller to add to; null: none
  std::int64_t width = 0;
  float soft_cap = 0;  ///< 0: none
};

}  // namespace adept::kernels
