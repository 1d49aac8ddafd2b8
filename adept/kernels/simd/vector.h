// Vectors of floats of the instruction set that the including file is compiled for, and a small matrix product on them.
// Everything here has internal linkage: see CMakeLists.txt.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

// The instance of a template for the arguments' element.
#define ADEPT_FOR_ELEMENT(function, a, ...) \
  ((a).element == Element::kFloat ? function<float>(a, __VA_ARGS__) : function<std::uint16_t>(a, __VA_ARGS__))

namespace adept::kernels {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kMostVectors = 4;  // of a row of the product's register tile
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kMostVectors = 2;
#else
constexpr int kLanes = 4;
constexpr int kMostVectors = 2;
#endif
constexpr int kMostRows = 6;  // of the register tile: with 4 (2) vectors it fills the 32 (16) registers
constexpr int kPanel = kMostVectors * kLanes;  // columns of a product's right side that lie together

using Vector = float __attribute__((vector_size(4 * kLanes)));
using IntVector = std::uint32_t __attribute__((vector_size(4 * kLanes)));
using LooseVector = float __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const LooseVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<LooseVector*>(p) = v; }
inline Vector splat(float x) { return x - Vector{}; }
/// b where either is NaN.
inline Vector maximum(Vector a, Vector b) {
#if defined(__AVX512F__)
  constexpr __mmask16 kAll = 0xffff;  // GCC 12 warns of its own _mm512_max_ps
  return reinterpret_cast<Vector>(_mm512_maskz_max_ps(kAll, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Vector>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}

/// Lane i of the result is lane i ^ distance of v.
template <int kDistance>
inline Vector swap_lanes(Vector v) {
  IntVector from;
  for (unsigned i = 0; i < kLanes; ++i) from[i] = i ^ kDistance;
  return __builtin_shuffle(v, from);
}

/// Whether any lane is not below or at `limit`; NaN is not.
inline bool any_above(Vector v, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), _mm512_set1_ps(limit), _CMP_NLE_UQ) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps(reinterpret_cast<__m256>(v), _mm256_set1_ps(limit), _CMP_NLE_UQ)) != 0;
#else
  bool any = false;
  for (int i = 0; i < kLanes; ++i) any |= !(v[i] <= limit);
  return any;
#endif
}

inline float sum_of(Vector v) {
  if constexpr (kLanes > 8) v += swap_lanes<8>(v);
  if constexpr (kLanes > 4) v += swap_lanes<4>(v);
  v += swap_lanes<2>(v);
  v += swap_lanes<1>(v);
  return v[0];
}
inline float largest_of(Vector v) {
  if constexpr (kLanes > 8) v = maximum(v, swap_lanes<8>(v));
  if constexpr (kLanes > 4) v = maximum(v, swap_lanes<4>(v));
  v = maximum(v, swap_lanes<2>(v));
  return maximum(v, swap_lanes<1>(v))[0];
}

constexpr float kLog2E = 1.44269504088896341f;
/// 1.5 * 2^23 + 127: adding it rounds to a whole number n, and leaves n + 127, the exponent of 2^n, in the lowest bits.
constexpr float kRoundingShift = 12583039.0f;

/// p 2^n of the whole number n from -127, which gives 0, to 127 that `shifted` is, kRoundingShift added.
inline Vector times_power(Vector p, Vector shifted) {
  return p * reinterpret_cast<Vector>(reinterpret_cast<IntVector>(shifted) << 23);
}

/// 2^x for x <= 0 or little above it, to 2 units in the last place; 0 below -126.5; NaN stays NaN.
inline Vector power_of_two(Vector x) {
  const Vector bounded = maximum(splat(-127.0f), x);
  const Vector shifted = bounded + splat(kRoundingShift);
  const Vector r = bounded - (shifted - splat(kRoundingShift));
  // Minimax polynomial of 2^r on [-1/2, 1/2] that is 1 at 0, fitted for its relative error, 1e-7; by Estrin's scheme,
  // as its steps would wait for each other.
  const Vector low = splat(6.9314697760e-1f) * r + splat(1.0f);
  const Vector middle = splat(5.5507337435e-2f) * r + splat(2.4022242085e-1f);
  const Vector high = splat(1.3264727126e-3f) * r + splat(9.6715126448e-3f);
  const Vector square = r * r;
  return times_power((high * square + middle) * square + low, shifted);
}

/// e^x for x <= 0 or little above it, to 2 units in the last place; 0 below -87.7; NaN stays NaN.
inline Vector exponential(Vector x) {
  constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  const Vector bounded = maximum(splat(-88.02969f), x);  // 2^-127
  const Vector shifted = bounded * splat(kLog2E) + splat(kRoundingShift);
  const Vector whole = shifted - splat(kRoundingShift);
  const Vector r = bounded - whole * splat(ln2_high) - whole * splat(ln2_low);
  // Cephes' minimax polynomial of expf on [-ln 2 / 2, ln 2 / 2].
  Vector p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  return times_power(p * r * r + r + splat(1.0f), shifted);
}

/// tanh x, to 4 units in the last place; NaN stays NaN.
inline Vector hyperbolic_tangent(Vector x) {
  const Vector size = x < Vector{} ? -x : x, square = x * x;
  // Cephes' minimax polynomial of tanhf up to 0.625: beyond, the difference of 1 and e^-2x keeps its digits.
  Vector p = splat(-5.70498872745e-3f);
  p = p * square + splat(2.06390887954e-2f);
  p = p * square + splat(-5.37397155531e-2f);
  p = p * square + splat(1.33314422036e-1f);
  p = p * square + splat(-3.33332819422e-1f);
  const Vector near = p * square * size + size, small = exponential(splat(-2.0f) * size);
  const Vector result = size < splat(0.625f) ? near : (splat(1.0f) - small) / (splat(1.0f) + small);
  return x < Vector{} ? -result : result;
}

/// Two bf16 numbers that follow each other in the depth of a product, the first in the lower half.
using Pair = std::uint32_t;
#if defined(__AVX512BF16__) || defined(ADEPT_EMULATED_PAIRS)
constexpr bool kMultipliesPairs = true;
#else
constexpr bool kMultipliesPairs = false;
#endif

// What a product multiplies: numbers, or pairs of them.
template <typename N>
struct LaneNumbers;
template <>
struct LaneNumbers<float> {
  using Type = Vector;
};
template <>
struct LaneNumbers<Pair> {
  using Type = IntVector;
};
template <typename N>
using VectorOf = typename LaneNumbers<N>::Type;

inline Vector load_numbers(const float* p) { return load(p); }
inline IntVector load_numbers(const Pair* p) {
  IntVector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Vector multiply_add(Vector sum, float a, Vector b) { return sum + splat(a) * b; }
/// Both halves, the second one first, as the instruction does.
inline Vector multiply_add(Vector sum, Pair a, IntVector b) {
  const IntVector both = IntVector{} + a;
#if defined(__AVX512BF16__)
  return reinterpret_cast<Vector>(
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(both), reinterpret_cast<__m512bh>(b)));
#else
  sum += reinterpret_cast<Vector>(both & 0xffff0000u) * reinterpret_cast<Vector>(b & 0xffff0000u);
  return sum + reinterpret_cast<Vector>(both << 16) * reinterpret_cast<Vector>(b << 16);
#endif
}

/// c (R x V kLanes) = or += the sum over k < depth of a(r, k) b(k, :), a(r, k) = a[r * a_row + k * a_depth], b of a
/// panel (depth, kPanel).
template <int R, int V, bool kAdd, typename N>
inline __attribute__((always_inline)) void register_tile(std::int64_t depth, const N* a, std::int64_t a_row,
                                                         std::int64_t a_depth, const N* b, float* c,
                                                         std::int64_t c_row) {
  Vector sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = kAdd ? load(c + r * c_row + v * kLanes) : Vector{};
#pragma GCC unroll 4
  for (std::int64_t k = 0; k < depth; ++k) {
    VectorOf<N> row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = load_numbers(b + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const N factor = a[r * a_row];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = multiply_add(sum[r][v], factor, row[v]);
    }
    a += a_depth;
    b += kPanel;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(c + r * c_row + v * kLanes, sum[r][v]);
}

/// c (rows x V kLanes) = or += a b, b of a panel.
template <int V, bool kAdd, typename N>
void multiply_panel(std::int64_t rows, std::int64_t depth, const N* a, std::int64_t a_row, std::int64_t a_depth,
                    const N* b, float* c, std::int64_t c_row) {
  static_assert(kMostRows == 6);
  for (; rows >= 6; rows -= 6, a += 6 * a_row, c += 6 * c_row)
    register_tile<6, V, kAdd>(depth, a, a_row, a_depth, b, c, c_row);
  if (rows >= 4) {
    register_tile<4, V, kAdd>(depth, a, a_row, a_depth, b, c, c_row);
    rows -= 4, a += 4 * a_row, c += 4 * c_row;
  }
  if (rows >= 2) {
    register_tile<2, V, kAdd>(depth, a, a_row, a_depth, b, c, c_row);
    rows -= 2, a += 2 * a_row, c += 2 * c_row;
  }
  if (rows == 1) register_tile<1, V, kAdd>(depth, a, a_row, a_depth, b, c, c_row);
}

/// c (rows x columns) = or += a b; `columns` is a multiple of kLanes. b (depth x columns) lies in panels (depth,
/// kPanel) that begin b_panel apart: what the innermost loop reads is contiguous, and does not meet itself in the
/// cache. Of pairs the depth and the strides are in pairs.
template <bool kAdd, typename N>
void multiply(std::int64_t rows, std::int64_t columns, std::int64_t depth, const N* a, std::int64_t a_row,
              std::int64_t a_depth, const N* b, std::int64_t b_panel, float* c, std::int64_t c_row) {
  for (; columns >= kPanel; columns -= kPanel, b += b_panel, c += kPanel)
    multiply_panel<kMostVectors, kAdd>(rows, depth, a, a_row, a_depth, b, c, c_row);
  if constexpr (constexpr int kHalf = kMostVectors / 2; kHalf > 1)
    if (columns >= kHalf * kLanes) {
      multiply_panel<kHalf, kAdd>(rows, depth, a, a_row, a_depth, b, c, c_row);
      b += kHalf * kLanes, c += kHalf * kLanes, columns -= kHalf * kLanes;
    }
  if (columns > 0) multiply_panel<1, kAdd>(rows, depth, a, a_row, a_depth, b, c, c_row);
}

// bf16 is the upper half of an fp32.
inline float widen(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}
inline float widen(float value) { return value; }

/// To the nearest, ties to even; NaN stays NaN.
inline void narrow(float value, std::uint16_t& result) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  result = static_cast<std::uint16_t>(value != value ? 0x7fc0 : rounded);
}
inline void narrow(float value, float& result) { result = value; }

using HalfVector = std::uint16_t __attribute__((vector_size(2 * kLanes)));

/// The first `count` of kLanes elements as fp32; the others are `rest`.
inline Vector load_some(const float* p, std::int64_t count, float rest = 0) {
  if (count == kLanes) return load(p);
  Vector v = splat(rest);
  std::memcpy(&v, p, static_cast<std::size_t>(count) * sizeof(float));
  return v;
}
inline Vector load_some(const std::uint16_t* p, std::int64_t count, float rest = 0) {
  HalfVector half{};
  if (count == kLanes)
    std::memcpy(&half, p, sizeof half);
  else
    std::memcpy(&half, p, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
  Vector v = reinterpret_cast<Vector>(__builtin_convertvector(half, IntVector) << 16);
  for (std::int64_t i = count; i < kLanes; ++i) v[i] = rest;
  return v;
}

/// Swaps bit log2(kDistance) of row and lane of each element.
template <int kDistance>
inline __attribute__((always_inline)) void transpose_step(Vector (&rows)[kLanes]) {
  IntVector upper, lower;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    upper[lane] = lane & kDistance ? kLanes + (lane ^ kDistance) : lane;
    lower[lane] = lane & kDistance ? kLanes + lane : lane ^ kDistance;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & kDistance) continue;
    const Vector a = rows[i], b = rows[i | kDistance];
    rows[i] = __builtin_shuffle(a, b, upper);
    rows[i | kDistance] = __builtin_shuffle(a, b, lower);
  }
}

inline __attribute__((always_inline)) void transpose(Vector (&rows)[kLanes]) {
  transpose_step<1>(rows);
  transpose_step<2>(rows);
  if constexpr (kLanes > 4) transpose_step<4>(rows);
  if constexpr (kLanes > 8) transpose_step<8>(rows);
}

inline void store_some(float* p, std::int64_t count, Vector v) {
  if (count == kLanes) return store(p, v);
  std::memcpy(p, &v, static_cast<std::size_t>(count) * sizeof(float));
}

/// As narrow() of each, but that the instruction takes subnormal numbers for 0.
inline HalfVector narrow(Vector v) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<HalfVector>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
#else
  const IntVector bits = reinterpret_cast<IntVector>(v);
  const IntVector nearest = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return __builtin_convertvector(v != v ? IntVector{} + 0x7fc0u : nearest, HalfVector);
#endif
}
inline void store_some(std::uint16_t* p, std::int64_t count, Vector v) {
  const HalfVector half = narrow(v);
  std::memcpy(p, &half, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
}

/// kLanes pairs, in the memory of so many floats.
inline void store_pairs(float* p, HalfVector first, HalfVector second) {
  const IntVector pairs = __builtin_convertvector(first, IntVector) | __builtin_convertvector(second, IntVector) << 16;
  std::memcpy(p, &pairs, sizeof pairs);
}

/// Rounded to the element type T and back.
template <typename T>
inline Vector rounded(Vector v) {
  if constexpr (sizeof(T) == sizeof(float)) return v;
  return reinterpret_cast<Vector>(__builtin_convertvector(narrow(v), IntVector) << 16);
}

}  // namespace
}  // namespace adept::kernels
