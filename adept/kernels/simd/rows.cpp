// Legend: N rows, D width, B sequences, H heads, T positions, E head_dim, V vocabulary.
#include "adept/kernels/rows.h"

#include "adept/kernels/simd/functions.h"
#include "adept/kernels/simd/vector.h"

namespace adept::kernels::ADEPT_INSTRUCTION_SET {
namespace {

// body(begin, count) for each vector's worth of 0 .. size-1; only the last count may be less than kLanes.
template <typename Body>
inline __attribute__((always_inline)) void for_each_vector(std::int64_t size, const Body& body) {
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) body(i, std::int64_t{kLanes});
  if (i < size) body(i, size - i);
}

template <typename T>
void add_elements(const Addition& a, std::int64_t begin, std::int64_t end) {
  const T *x = static_cast<const T*>(a.x) + begin, *y = static_cast<const T*>(a.y) + begin;
  T* sum = static_cast<T*>(a.sum) + begin;
  for_each_vector(
      end - begin, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
        store_some(sum + i, count, load_some(x + i, count) + load_some(y + i, count));
      });
}

// As much memory as a Vector, and half of one.
using DoubleVector = double __attribute__((vector_size(4 * kLanes)));
using HalfOfVector = float __attribute__((vector_size(2 * kLanes)));

template <typename T>
void sum_squares(const SquareSums& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t block = begin; block < end; ++block) {
    const std::int64_t first = block * SquareSums::kBlock, left = a.size - first;
    const std::int64_t size = left < SquareSums::kBlock ? left : SquareSums::kBlock;
    const T* x = static_cast<const T*>(a.x) + first;
    DoubleVector sums[2] = {};
    for_each_vector(
        size, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
          const Vector v = load_some(x + i, count);
          HalfOfVector halves[2];
          std::memcpy(halves, &v, sizeof v);
          for (int half = 0; half < 2; ++half) {
            const auto wide = __builtin_convertvector(halves[half], DoubleVector);
            sums[half] += wide * wide;
          }
        });
    sums[0] += sums[1];
    a.sums[block] = 0;
    for (int lane = 0; lane < kLanes / 2; ++lane) a.sums[block] += sums[0][lane];
  }
}

// body(constant) where constant.value is what is known only at run time: no branch is left in a loop.
template <auto kValue>
struct Constant {
  static constexpr auto value = kValue;
};
template <typename Body>
void with_constant(GainConvention gain, const Body& body) {
  switch (gain) {
    case GainConvention::kRounded:
      return body(Constant<GainConvention::kRounded>{});
    case GainConvention::kWide:
      return body(Constant<GainConvention::kWide>{});
    case GainConvention::kOnePlus:
      return body(Constant<GainConvention::kOnePlus>{});
  }
}
template <typename Body>
void with_constant(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kSilu:
      return body(Constant<Activation::kSilu>{});
    case Activation::kGeluTanh:
      return body(Constant<Activation::kGeluTanh>{});
  }
}

// What a row is multiplied by.
template <GainConvention kGain, typename T>
Vector load_gain(const T* weight, std::int64_t count) {
  const Vector w = load_some(weight, count);
  return kGain == GainConvention::kOnePlus ? splat(1) + w : w;
}

template <GainConvention kGain, typename T>
void normalize_rows_by(const RmsNorm& a, std::int64_t begin, std::int64_t end) {
  const std::int64_t width = a.width;
  const T* weight = static_cast<const T*>(a.weight);
  for (std::int64_t n = begin; n < end; ++n) {
    const T* x = static_cast<const T*>(a.x) + n * width;
    T* y = static_cast<T*>(a.y) + n * width;
    Vector squares{};
    for_each_vector(
        width, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
          const Vector v = load_some(x + i, count);
          squares += v * v;
        });
    const float inverse = 1 / __builtin_sqrtf(sum_of(squares) / static_cast<float>(width) + a.eps);
    if (a.inverse_rms != nullptr) a.inverse_rms[n] = inverse;
    for_each_vector(
        width, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
          Vector v = load_some(x + i, count) * splat(inverse);
          if (kGain == GainConvention::kRounded) v = rounded<T>(v);
          store_some(y + i, count, v * load_gain<kGain>(weight + i, count));
        });
  }
}

template <typename T>
void normalize_rows(const RmsNorm& a, std::int64_t begin, std::int64_t end) {
  with_constant(a.gain, [&](auto gain) { normalize_rows_by<gain.value, T>(a, begin, end); });
}

// With n = x r and g = dy gain: dx = r (g - n mean(g n)), dweight = sum over rows of dy n.
template <GainConvention kGain, typename T>
void differentiate_rows_by(const RmsNorm& a, std::int64_t begin, std::int64_t end, float* grad_weight) {
  const std::int64_t width = a.width;
  const T* weight = static_cast<const T*>(a.weight);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(a.x) + row * width;
    const T* grad_y = static_cast<const T*>(a.grad_y) + row * width;
    const Vector inverse = splat(a.inverse_rms[row]);
    Vector products{};
    for_each_vector(
        width, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
          const Vector n = load_some(x + i, count) * inverse, dy = load_some(grad_y + i, count);
          products += dy * load_gain<kGain>(weight + i, count) * n;
          if (grad_weight != nullptr) store_some(grad_weight + i, count, load_some(grad_weight + i, count) + dy * n);
        });
    if (a.grad_x == nullptr) continue;
    T* grad_x = static_cast<T*>(a.grad_x) + row * width;
    const Vector mean = splat(sum_of(products) / static_cast<float>(width));
    for_each_vector(
        width, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
          const Vector n = load_some(x + i, count) * inverse;
          const Vector g = load_some(grad_y + i, count) * load_gain<kGain>(weight + i, count);
          store_some(grad_x + i, count, inverse * (g - n * mean));
        });
  }
}

template <typename T>
void differentiate_rows(const RmsNorm& a, std::int64_t begin, std::int64_t end, float* grad_weight) {
  with_constant(a.gain, [&](auto gain) { differentiate_rows_by<gain.value, T>(a, begin, end, grad_weight); });
}

template <typename T>
void rotate_heads(const Rope& a, std::int64_t begin, std::int64_t end) {
  const std::int64_t half = a.rotary_dim / 2;
  const std::int64_t unturned = a.x.data == a.y.data ? 0 : a.head_dim - a.rotary_dim;
  const Vector sign = splat(a.sign);
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t sequence = task / a.positions, t = task % a.positions;
    const std::int64_t angles = sequence * a.table_stride + t * half;
    const T *cos = static_cast<const T*>(a.cos) + angles, *sin = static_cast<const T*>(a.sin) + angles;
    const T* x = static_cast<const T*>(a.x.data) + sequence * a.x.batch_stride + t * a.x.position_stride;
    T* y = static_cast<T*>(a.y.data) + sequence * a.y.batch_stride + t * a.y.position_stride;
    for (std::int64_t head = 0; head < a.num_heads; ++head, x += a.x.head_stride, y += a.y.head_stride) {
      std::memcpy(y + a.rotary_dim, x + a.rotary_dim, static_cast<std::size_t>(unturned) * sizeof(T));
      for_each_vector(
          half, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
            const Vector x1 = load_some(x + i, count), x2 = load_some(x + half + i, count);
            const Vector c = load_some(cos + i, count), s = sign * load_some(sin + i, count);
            store_some(y + i, count, x1 * c - x2 * s);
            store_some(y + half + i, count, x2 * c + x1 * s);
          });
    }
  }
}

// 1 / (1 + e^-x), without an overflow on either side.
Vector sigmoid(Vector x) {
  const Vector small = exponential(x < Vector{} ? x : -x);
  return (x < Vector{} ? small : splat(1)) / (splat(1) + small);
}

// z(x) and its derivative, of which the activation is x sigmoid(z).
struct Opening {
  Vector z, slope;
};
template <Activation kActivation>
Opening opening(Vector x) {
  if constexpr (kActivation == Activation::kSilu) return {x, splat(1)};
  constexpr float kLinear = 1.5957691216057308f, kCubic = 0.044715f;  // sqrt(8 / pi)
  const Vector square = x * x;
  return {splat(kLinear) * x * (splat(1) + splat(kCubic) * square),
          splat(kLinear) * (splat(1) + splat(3 * kCubic) * square)};
}

template <Activation kActivation, typename T>
void gate_by(const Gate& a, std::int64_t begin, std::int64_t end) {
  const T *gates = static_cast<const T*>(a.gate) + begin, *ups = static_cast<const T*>(a.up) + begin;
  T* y = static_cast<T*>(a.y) + begin;
  for_each_vector(
      end - begin, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
        const Vector g = load_some(gates + i, count);
        store_some(y + i, count, g * sigmoid(opening<kActivation>(g).z) * load_some(ups + i, count));
      });
}

template <typename T>
void gate(const Gate& a, std::int64_t begin, std::int64_t end) {
  with_constant(a.activation, [&](auto activation) { gate_by<activation.value, T>(a, begin, end); });
}

// With s = sigmoid(z(g)): (g s)' = s (1 + g (1 - s) z'(g)).
template <Activation kActivation, typename T>
void differentiate_gate_by(const Gate& a, std::int64_t begin, std::int64_t end) {
  const T *gates = static_cast<const T*>(a.gate) + begin, *ups = static_cast<const T*>(a.up) + begin;
  const T* grad_y = static_cast<const T*>(a.grad_y) + begin;
  T* grad_gate = a.grad_gate == nullptr ? nullptr : static_cast<T*>(a.grad_gate) + begin;
  T* grad_up = a.grad_up == nullptr ? nullptr : static_cast<T*>(a.grad_up) + begin;
  for_each_vector(
      end - begin, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
        const Vector g = load_some(gates + i, count), dy = load_some(grad_y + i, count);
        const Opening o = opening<kActivation>(g);
        const Vector s = sigmoid(o.z);
        if (grad_gate != nullptr)
          store_some(grad_gate + i, count,
                     dy * load_some(ups + i, count) * s * (splat(1) + g * (splat(1) - s) * o.slope));
        if (grad_up != nullptr) store_some(grad_up + i, count, dy * g * s);
      });
}

template <typename T>
void differentiate_gate(const Gate& a, std::int64_t begin, std::int64_t end) {
  with_constant(a.activation, [&](auto activation) { differentiate_gate_by<activation.value, T>(a, begin, end); });
}

template <typename T>
float largest_in(const T* row, std::int64_t size) {
  const float first = widen(row[0]);
  Vector most = splat(first);
  for_each_vector(
      size, [&](std::int64_t i, std::int64_t count)
                __attribute__((always_inline)) { most = maximum(most, load_some(row + i, count, first)); });
  return largest_of(most);
}

/// Sum of body(i, count), a vector each, over 0 .. size-1: of some numbers in fp32, of those sums in fp64.
template <typename Body>
double sum_over_vectors(std::int64_t size, const Body& body) {
  constexpr std::int64_t kBlock = 64 * kLanes;
  double sum = 0;
  for (std::int64_t block = 0; block < size; block += kBlock) {
    const std::int64_t length = size - block < kBlock ? size - block : kBlock;
    Vector partial{};
    for_each_vector(
        length, [&](std::int64_t i, std::int64_t count)
                    __attribute__((always_inline)) { partial += body(block + i, count); });
    sum += sum_of(partial);
  }
  return sum;
}

// Logits as the loss takes them. kCapped: they have a soft cap.
template <bool kCapped>
Vector capped(Vector logits, float soft_cap) {
  if constexpr (!kCapped) return logits;
  return hyperbolic_tangent(logits / splat(soft_cap)) * splat(soft_cap);
}
template <bool kCapped>
float capped(float logit, float soft_cap) {
  return kCapped ? capped<true>(splat(logit), soft_cap)[0] : logit;
}
// Those that are not there are -infinity.
template <bool kCapped, typename T>
Vector load_logits(const T* p, std::int64_t count, float soft_cap) {
  Vector v = load_some(p, count, -__builtin_inff());
  if constexpr (!kCapped) return v;
  v = capped<true>(v, soft_cap);
  for (std::int64_t i = count; i < kLanes; ++i) v[i] = -__builtin_inff();
  return v;
}
// The derivative of a capped logit by the logit.
Vector slope_of(Vector capped, float soft_cap) {
  const Vector tangent = capped / splat(soft_cap);
  return splat(1) - tangent * tangent;
}

// A row is read three times, from memory only the first time.
template <bool kCapped, typename T>
void score_rows_by(const CrossEntropy& a, std::int64_t begin, std::int64_t end) {
  const std::int64_t size = a.vocab_size;
  for (std::int64_t n = begin; n < end; ++n) {
    T* logits = static_cast<T*>(a.logits) + n * size;
    const float wanted = capped<kCapped>(widen(logits[a.targets[n]]), a.soft_cap);
    const Vector largest = splat(capped<kCapped>(largest_in(logits, size), a.soft_cap));
    const double sum = sum_over_vectors(
        size, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
          return exponential(load_logits<kCapped>(logits + i, count, a.soft_cap) - largest);
        });
    a.losses[n] = static_cast<float>(__builtin_log(sum) + largest[0] - wanted);
    if (!a.wants_gradient) continue;
    const Vector inverse = splat(static_cast<float>(1 / sum));
    const float probability = exponential(splat(wanted) - largest)[0] * inverse[0];
    for_each_vector(
        size, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
          const Vector logit = capped<kCapped>(load_some(logits + i, count), a.soft_cap);
          Vector gradient = exponential(logit - largest) * inverse;
          if (kCapped) gradient *= slope_of(logit, a.soft_cap);
          store_some(logits + i, count, gradient);
        });
    const float slope = kCapped ? slope_of(splat(wanted), a.soft_cap)[0] : 1;
    narrow((probability - 1) * slope, logits[a.targets[n]]);
  }
}

template <typename T>
void score_rows(const CrossEntropy& a, std::int64_t begin, std::int64_t end) {
  a.soft_cap > 0 ? score_rows_by<true, T>(a, begin, end) : score_rows_by<false, T>(a, begin, end);
}

template <bool kCapped, typename T>
void soften_columns_by(const OnlineSoftmax& a, std::int64_t begin, std::int64_t end) {
  constexpr float kMostAboveBase = 8;  // e^8 is far from the largest number, and e^-8 of one still precise
  for (std::int64_t n = begin; n < end; ++n) {
    T* logits = static_cast<T*>(a.logits) + n * a.columns;
    const std::int64_t target = a.targets[n] - a.first;
    if (target >= 0 && target < a.columns) a.target_logits[n] = capped<kCapped>(widen(logits[target]), a.soft_cap);
    const float largest = capped<kCapped>(largest_in(logits, a.columns), a.soft_cap);
    if (largest > a.base[n] + kMostAboveBase) {
      const Vector factor = exponential(splat(a.base[n]) - splat(largest));
      a.base[n] = largest;
      a.sum[n] *= factor[0];
      if (float* mixed = a.mixed == nullptr ? nullptr : a.mixed + n * a.width)
        for_each_vector(
            a.width, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
              store_some(mixed + i, count, load_some(mixed + i, count) * factor);
            });
    }
    const Vector base = splat(a.base[n]);
    a.sum[n] += sum_over_vectors(
        a.columns, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
          const Vector logit = load_logits<kCapped>(logits + i, count, a.soft_cap);
          const Vector e = exponential(logit - base);
          store_some(logits + i, count, kCapped ? e * slope_of(logit, a.soft_cap) : e);
          return e;
        });
  }
}

template <typename T>
void soften_columns(const OnlineSoftmax& a, std::int64_t begin, std::int64_t end) {
  a.soft_cap > 0 ? soften_columns_by<true, T>(a, begin, end) : soften_columns_by<false, T>(a, begin, end);
}

}  // namespace

void add(const Addition& a, std::int64_t begin, std::int64_t end) { ADEPT_FOR_ELEMENT(add_elements, a, begin, end); }
void square_sums(const SquareSums& a, std::int64_t begin, std::int64_t end) {
  ADEPT_FOR_ELEMENT(sum_squares, a, begin, end);
}
void rms_norm_forward(const RmsNorm& a, std::int64_t begin, std::int64_t end) {
  ADEPT_FOR_ELEMENT(normalize_rows, a, begin, end);
}
void rms_norm_backward(const RmsNorm& a, std::int64_t begin, std::int64_t end, float* grad_weight) {
  ADEPT_FOR_ELEMENT(differentiate_rows, a, begin, end, grad_weight);
}
void rope(const Rope& a, std::int64_t begin, std::int64_t end) { ADEPT_FOR_ELEMENT(rotate_heads, a, begin, end); }
void gate_forward(const Gate& a, std::int64_t begin, std::int64_t end) { ADEPT_FOR_ELEMENT(gate, a, begin, end); }
void gate_backward(const Gate& a, std::int64_t begin, std::int64_t end) {
  ADEPT_FOR_ELEMENT(differentiate_gate, a, begin, end);
}
void cross_entropy(const CrossEntropy& a, std::int64_t begin, std::int64_t end) {
  ADEPT_FOR_ELEMENT(score_rows, a, begin, end);
}

void online_softmax(const OnlineSoftmax& a, std::int64_t begin, std::int64_t end) {
  ADEPT_FOR_ELEMENT(soften_columns, a, begin, end);
}

}  // namespace adept::kernels::ADEPT_INSTRUCTION_SET
