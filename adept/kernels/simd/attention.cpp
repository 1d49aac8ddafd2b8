// Legend: H query heads, G of them for each key-value head, T queries, S keys, E head_dim, W = E padded, P columns of a
// panel (kPanel).
#include "adept/kernels/attention_blocks.h"
#include "adept/kernels/simd/functions.h"
#include "adept/kernels/simd/vector.h"

namespace adept::kernels::ADEPT_INSTRUCTION_SET {
namespace {

constexpr float kInfinity = __builtin_inff();

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

template <typename N>
void clear(N* numbers, std::int64_t count) {
  std::memset(numbers, 0, sizeof(N) * static_cast<std::size_t>(count));
}

template <typename T>
T* head_of(const Heads& heads, std::int64_t sequence, std::int64_t head) {
  return static_cast<T*>(heads.data) + sequence * heads.batch_stride + head * heads.head_stride;
}

// How tensors of T are packed for the matrix products: as fp32.
template <typename T, bool kPairs = kMultipliesPairs && sizeof(T) == sizeof(std::uint16_t)>
struct Packing {
  using Number = float;
  using Element = float;                    // of probabilities
  static constexpr std::int64_t kEach = 1;  // elements in a number

  // (rows, E) -> (rows, W), the depth of the product along E; padding is zero.
  static void pack_rows(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t head_dim,
                        std::int64_t width, float* to) {
    for (std::int64_t i = 0; i < rows; ++i, from += stride, to += width) {
      for (std::int64_t e = 0; e < head_dim; ++e) to[e] = widen(from[e]);
      for (std::int64_t e = head_dim; e < width; ++e) to[e] = 0;
    }
  }

  // (rows, E) -> (W / P, depth, P), the depth of the product along the rows. Padding is zero.
  static void pack_panels(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t head_dim,
                          std::int64_t width, std::int64_t depth, float* to) {
    for (std::int64_t panel = 0; panel < width; panel += kPanel, to += depth * kPanel) {
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t e = 0; e < kPanel; e += kLanes) {
          const std::int64_t left = smaller(kLanes, head_dim - panel - e);
          store(to + i * kPanel + e, left > 0 ? load_some(from + i * stride + panel + e, left) : Vector{});
        }
      clear(to + rows * kPanel, (depth - rows) * kPanel);
    }
  }

  // (rows, E) -> (padded_rows / P, E, P), the depth of the product along E: rows become columns. Padding is zero.
  static void pack_transposed(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t head_dim,
                              std::int64_t padded_rows, float* to) {
    for (std::int64_t panel = 0; panel < padded_rows; panel += kPanel, to += head_dim * kPanel)
      for (std::int64_t n = 0; n < kPanel; n += kLanes)
        for (std::int64_t e = 0; e < head_dim; e += kLanes) {
          const std::int64_t left = smaller(kLanes, head_dim - e), first = panel + n;
          Vector square[kLanes];
#pragma GCC unroll 16
          for (int r = 0; r < kLanes; ++r)
            square[r] = first + r < rows ? load_some(from + (first + r) * stride + e, left) : Vector{};
          transpose(square);
          for (std::int64_t c = 0; c < left; ++c) store(to + (e + c) * kPanel + n, square[c]);
        }
  }
};

// On processors with bf16 instructions: pairs of bf16 elements that are neighbours along the depth.
template <typename T>
struct Packing<T, true> {
  using Number = Pair;
  using Element = T;
  static constexpr std::int64_t kEach = 2;

  // (rows, E) -> (rows, W / 2).
  static void pack_rows(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t head_dim,
                        std::int64_t width, Pair* to) {
    for (std::int64_t i = 0; i < rows; ++i, from += stride, to += width / 2) {
      std::memcpy(to, from, sizeof(T) * static_cast<std::size_t>(head_dim));
      std::memset(reinterpret_cast<T*>(to) + head_dim, 0, sizeof(T) * static_cast<std::size_t>(width - head_dim));
    }
  }

  // (rows, E) -> (W / P, depth / 2, P).
  static void pack_panels(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t head_dim,
                          std::int64_t width, std::int64_t depth, Pair* to) {
    for (std::int64_t panel = 0; panel < width; panel += kPanel) {
      const std::int64_t columns = smaller(kPanel, head_dim - panel);  // none or fewer where all is padding
      for (std::int64_t i = 0; i < depth; i += 2, to += kPanel) {
        clear(to, kPanel);
        if (i >= rows) continue;
        const T* first = from + i * stride + panel;
        const T* second = i + 1 < rows ? first + stride : first;
        const Pair there = i + 1 < rows ? 0xffff0000u : 0;
        for (std::int64_t e = 0; e < columns; ++e) to[e] = (static_cast<Pair>(second[e]) << 16 & there) | first[e];
      }
    }
  }

  // (rows, E) -> (depth / P, E / 2, P).
  static void pack_transposed(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t head_dim,
                              std::int64_t padded_rows, Pair* to) {
    for (std::int64_t panel = 0; panel < padded_rows; panel += kPanel) {
      const std::int64_t count = larger(0, smaller(kPanel, rows - panel));
      for (std::int64_t e = 0; e < head_dim; e += 2, to += kPanel) {
        for (std::int64_t i = 0; i < count; ++i) {
          const T* row = from + (panel + i) * stride + e;
          const Pair second = e + 1 < head_dim ? row[1] : 0;
          to[i] = second << 16 | row[0];
        }
        clear(to + count, kPanel - count);
      }
    }
  }
};

template <typename T>
void unpack_rows(const float* from, std::int64_t width, std::int64_t rows, std::int64_t head_dim, float factor, T* to,
                 std::int64_t stride) {
  for (std::int64_t i = 0; i < rows; ++i, from += width, to += stride)
    for (std::int64_t e = 0; e < head_dim; ++e) narrow(factor * from[e], to[e]);
}

Vector lane_numbers() {
  Vector v;
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(i);
  return v;
}

// One task of the work: see num_tasks().
struct Task {
  std::int64_t sequence, group, split;

  Task(const Attention& a, std::int64_t index)
      : sequence(index / a.num_splits / a.num_key_value_heads),
        group(index / a.num_splits % a.num_key_value_heads),
        split(index % a.num_splits) {}
};

// A tile of scores: `count` queries from row `row` of the current stripe, and `columns` keys from key n. masked: some
// queries do not see all of these keys.
struct Tile {
  std::int64_t n, row, count, columns;
  bool masked;
};

// Calls visit(Tile) for every tile with a visible key, of a stripe of `rows` queries from `begin`, one block of keys
// after the other.
template <typename Visit>
void for_each_tile(const Attention& a, const std::int32_t* first_key, std::int64_t begin, std::int64_t rows,
                   const Visit& visit) {
  const std::int64_t position = a.num_keys - a.num_queries + begin, last_key = position + rows - 1;
  for (std::int64_t n = first_key[begin] / kKeyBlock * kKeyBlock; n <= last_key; n += kKeyBlock)
    for (std::int64_t row = 0, end = 0; row < rows; row = end) {
      end = smaller(row + kQueryTile, rows);
      // Rows from `whole` on see the whole block.
      const bool is_cut = n < first_key[begin + end - 1];
      const std::int64_t partly = is_cut ? end - row : larger(n + kKeyBlock - 1 - position - row, 0);
      const std::int64_t whole = smaller(row + round_up(partly, kDiagonalTile), end);
      for (; row < whole; row += kDiagonalTile) {
        const std::int64_t count = smaller(kDiagonalTile, whole - row);
        const std::int64_t columns = smaller(kKeyBlock, round_up(position + row + count - n, kLanes));
        if (columns > 0 && first_key[begin + row] < n + kKeyBlock) visit(Tile{n, row, count, columns, true});
      }
      if (whole < end) visit(Tile{n, whole, end - whole, kKeyBlock, false});
    }
}

// Columns of a row of scores that its query sees: low <= column <= high.
struct Visible {
  std::int64_t low, high;
};

Visible visible_columns(const Attention& a, const std::int32_t* first_key, std::int64_t query, std::int64_t n) {
  return {first_key[query] - n, a.num_keys - a.num_queries + query - n};
}

// Values of the columns from `column` on, with `hidden` for columns that are not visible. Column numbers are small, so
// floats represent them exactly.
Vector hide(Vector values, std::int64_t column, Visible visible, float hidden) {
  if (visible.low <= column && column + kLanes - 1 <= visible.high) return values;
  const Vector number = lane_numbers() + splat(static_cast<float>(column));
  const Vector low = splat(static_cast<float>(larger(visible.low, -1)));
  const Vector high = splat(static_cast<float>(smaller(visible.high, kKeyBlock)));
  const Vector not_low = number < low ? splat(hidden) : values;
  return number > high ? splat(hidden) : not_low;
}

// Probabilities are powers of two relative to their query's base, at most 2^kMostExponent. Only if they would exceed
// it, the base is raised to the largest score and the sums and outputs of earlier blocks are rescaled. This loses no
// precision, and it is rare after a row's first block.
constexpr float kMostExponent = 12;
constexpr float kNoBase = -__FLT_MAX__;  // before the first block

// Replaces products of queries and keys by capped scores. Their derivatives with respect to the scores without a cap go
// to `slopes`, if it is not null.
void cap_tile(const Attention& a, const Tile& t, float* scores, float* slopes) {
  const Vector inward = splat(a.scale / a.soft_cap), cap = splat(a.soft_cap);
  for (std::int64_t i = 0; i < t.count * kKeyBlock; i += kKeyBlock)
    for (std::int64_t n = i; n < i + t.columns; n += kLanes) {
      const Vector tangent = hyperbolic_tangent(load(scores + n) * inward);
      store(scores + n, tangent * cap);
      if (slopes != nullptr) store(slopes + n, splat(1.0f) - tangent * tangent);
    }
}

// Factor that converts a score (a product, or the output of cap_tile()) to an exponent of 2.
float exponent_factor(const Attention& a) { return (a.soft_cap > 0 ? 1 : a.scale) * kLog2E; }

// Raises a query's base to `largest`, the largest score of a block as an exponent, and rescales its sums and output.
void raise_base(const ForwardWorkspace& w, std::int64_t row, std::int64_t width, float largest) {
  const float base = w.base[row];
  w.base[row] = largest <= base ? base : largest;  // NaN stays
  if (base == kNoBase) return;
  const Vector rescale = power_of_two(splat(base - w.base[row]));
  float *sum = w.row_sum + row * kLanes, *out = w.out + row * width;
  store(sum, load(sum) * rescale);
  for (std::int64_t e = 0; e < width; e += kLanes) store(out + e, load(out + e) * rescale);
}

// Replaces a tile of scores by probabilities, elements of E, and adds them to the sums of the rows.
template <typename E, bool kMasked>
void soften_tile(const Attention& a, const ForwardWorkspace& w, const Tile& t, const std::int32_t* first_key,
                 std::int64_t begin) {
  const std::int64_t columns = kMasked ? t.columns : kKeyBlock, width = padded_head_dim(a);
  const float factor = exponent_factor(a);
  for (std::int64_t i = 0; i < t.count; ++i) {
    float* scores = w.scores + i * kKeyBlock;
    const Visible visible = visible_columns(a, first_key, begin + t.row + i, t.n);
    Vector most = splat(-kInfinity);
    for (std::int64_t n = 0; n < columns; n += kLanes) {
      Vector score = load(scores + n);
      if (kMasked) store(scores + n, score = hide(score, n, visible, -kInfinity));
      most = maximum(most, score);
    }
    most *= splat(factor);
    if (any_above(most, w.base[t.row + i] + kMostExponent)) raise_base(w, t.row + i, width, largest_of(most));
  }
  for (std::int64_t i = 0; i < t.count; ++i) {
    float *scores = w.scores + i * kKeyBlock, *row_sum = w.row_sum + (t.row + i) * kLanes;
    const Vector base = splat(w.base[t.row + i]);
    Vector sum = load(row_sum);
    for (std::int64_t n = 0; n < columns; n += kLanes) {
      const Vector p = power_of_two(load(scores + n) * splat(factor) - base);
      store_some(reinterpret_cast<E*>(scores) + n, kLanes, p);
      sum += p;
    }
    store(row_sum, sum);
  }
}

template <typename T>
void forward_task(const Attention& a, const Task& task, float* workspace) {
  using Packed = Packing<T>;
  using Number = typename Packed::Number;
  constexpr std::int64_t kEach = Packed::kEach;
  const auto [sequence, group, split] = task;
  const ForwardWorkspace w(a, workspace);
  auto *keys = reinterpret_cast<Number*>(w.keys), *values = reinterpret_cast<Number*>(w.values);
  auto* packed_q = reinterpret_cast<Number*>(w.q);
  const std::int64_t head_dim = a.head_dim, width = padded_head_dim(a);
  const std::int64_t depth = divide_up(head_dim, kEach), num_keys = padded_keys(a);
  const std::int32_t* first_key = a.first_key + sequence * a.first_key_stride;
  const std::int64_t group_size = a.num_heads / a.num_key_value_heads, stripe = stripe_rows(a);
  Packed::pack_transposed(head_of<const T>(a.k, sequence, group), a.k.position_stride, a.num_keys, head_dim, num_keys,
                          keys);
  Packed::pack_panels(head_of<const T>(a.v, sequence, group), a.v.position_stride, a.num_keys, head_dim, width,
                      num_keys, values);
  for (std::int64_t head = group * group_size; head < (group + 1) * group_size; ++head) {
    const T* q = head_of<const T>(a.q, sequence, head);
    T* out = head_of<T>(a.out, sequence, head);
    for (std::int64_t begin = split * stripe; begin < a.num_queries; begin += a.num_splits * stripe) {
      const std::int64_t rows = smaller(stripe, a.num_queries - begin);
      Packed::pack_rows(q + begin * a.q.position_stride, a.q.position_stride, rows, head_dim, width, packed_q);
      clear(w.out, rows * width);
      clear(w.row_sum, rows * kLanes);
      for (std::int64_t r = 0; r < rows; ++r) w.base[r] = kNoBase;
      for_each_tile(a, first_key, begin, rows, [&](const Tile& t) {
        multiply<false>(t.count, t.columns, depth, packed_q + t.row * width / kEach, width / kEach, 1,
                        keys + t.n * depth, kPanel * depth, w.scores, kKeyBlock);
        if (a.soft_cap > 0) cap_tile(a, t, w.scores, nullptr);
        if (t.masked)
          soften_tile<typename Packed::Element, true>(a, w, t, first_key, begin);
        else
          soften_tile<typename Packed::Element, false>(a, w, t, first_key, begin);
        multiply<true>(t.count, width, t.columns / kEach, reinterpret_cast<const Number*>(w.scores), kKeyBlock, 1,
                       values + t.n / kEach * kPanel, kPanel * num_keys / kEach, w.out + t.row * width, width);
      });
      for (std::int64_t r = 0; r < rows; ++r) {
        const float sum = sum_of(load(w.row_sum + r * kLanes));
        unpack_rows(w.out + r * width, width, 1, head_dim, 1 / sum, out + (begin + r) * a.out.position_stride,
                    a.out.position_stride);
        if (a.log_sum_exp != nullptr)
          a.log_sum_exp[(sequence * a.num_heads + head) * a.num_queries + begin + r] =
              w.base[r] / kLog2E + __builtin_logf(sum);
      }
    }
  }
}

// The operands of the backward products. Tensors that are on the left of one product and on the right of another are
// packed both ways.
template <typename T>
struct BackwardOperands {
  using Packed = Packing<T>;
  using Number = typename Packed::Number;
  static constexpr std::int64_t kEach = Packed::kEach;

  std::int64_t width, key_panel, query_panel;  // numbers of a row, and of panels
  Number *keys_t, *values_t, *keys, *q_rows, *q_panels, *grad_out_rows, *grad_out_panels;

  BackwardOperands(const Attention& a, const BackwardWorkspace& w)
      : width(padded_head_dim(a)),
        key_panel(kPanel * padded_keys(a) / kEach),
        query_panel(kPanel * stripe_rows(a) / kEach),
        keys_t(reinterpret_cast<Number*>(w.keys_t)),
        values_t(reinterpret_cast<Number*>(w.values_t)),
        keys(reinterpret_cast<Number*>(w.keys)),
        q_rows(reinterpret_cast<Number*>(w.q)),
        q_panels(reinterpret_cast<Number*>(w.q_panels)),
        grad_out_rows(reinterpret_cast<Number*>(w.grad_out)),
        grad_out_panels(reinterpret_cast<Number*>(w.grad_out_panels)) {}

  void pack_keys(const Attention& a, const Task& task) const {
    const T* k = head_of<const T>(a.k, task.sequence, task.group);
    const T* v = head_of<const T>(a.v, task.sequence, task.group);
    const std::int64_t num_keys = padded_keys(a);
    Packed::pack_transposed(k, a.k.position_stride, a.num_keys, a.head_dim, num_keys, keys_t);
    Packed::pack_transposed(v, a.v.position_stride, a.num_keys, a.head_dim, num_keys, values_t);
    Packed::pack_panels(k, a.k.position_stride, a.num_keys, a.head_dim, width, num_keys, keys);
  }

  void pack_queries(const Attention& a, std::int64_t sequence, std::int64_t head, std::int64_t begin,
                    std::int64_t rows) const {
    const T* q = head_of<const T>(a.q, sequence, head) + begin * a.q.position_stride;
    const T* grad_out = head_of<const T>(a.grad_out, sequence, head) + begin * a.grad_out.position_stride;
    Packed::pack_rows(q, a.q.position_stride, rows, a.head_dim, width, q_rows);
    Packed::pack_rows(grad_out, a.grad_out.position_stride, rows, a.head_dim, width, grad_out_rows);
    Packed::pack_panels(q, a.q.position_stride, rows, a.head_dim, width, stripe_rows(a), q_panels);
    Packed::pack_panels(grad_out, a.grad_out.position_stride, rows, a.head_dim, width, stripe_rows(a), grad_out_panels);
  }
};

// The position of a tile in the scores of a stripe.
float* tile_of(const Attention& a, float* scores, const Tile& t) {
  return scores + t.n * stripe_rows(a) + t.row * kKeyBlock;
}

// For one query and block of keys: replaces scores by probabilities, and adds their products with their gradients to
// row_sum, lane by lane.
template <bool kMasked>
void restore_row(float* scores, const float* grad_probabilities, const Tile& t, Visible visible,
                 float exponent_of_score, float log_sum_exp, float* row_sum) {
  const std::int64_t columns = kMasked ? t.columns : kKeyBlock;
  const Vector base = splat(log_sum_exp * kLog2E), factor = splat(exponent_of_score);
  Vector sum = load(row_sum);
  for (std::int64_t n = 0; n < columns; n += kLanes) {
    Vector p = power_of_two(load(scores + n) * factor - base);
    if (kMasked) p = hide(p, n, visible, 0);
    store(scores + n, p);
    sum += p * load(grad_probabilities + n);
  }
  store(row_sum, sum);
}

// The probabilities of a tile, their gradients, and the row sums of their products.
template <typename T>
void restore_tile(const Attention& a, const BackwardWorkspace& w, const BackwardOperands<T>& o, const Tile& t,
                  const std::int32_t* first_key, std::int64_t begin, const float* log_sum_exp) {
  const std::int64_t depth = divide_up(a.head_dim, o.kEach), stride = o.width / o.kEach, row = t.row * stride;
  float *scores = tile_of(a, w.scores, t), *gradients = tile_of(a, w.grad_scores, t);
  multiply<false>(t.count, t.columns, depth, o.q_rows + row, stride, 1, o.keys_t + t.n * depth, kPanel * depth, scores,
                  kKeyBlock);
  if (a.soft_cap > 0) cap_tile(a, t, scores, tile_of(a, w.slopes, t));
  multiply<false>(t.count, t.columns, depth, o.grad_out_rows + row, stride, 1, o.values_t + t.n * depth, kPanel * depth,
                  gradients, kKeyBlock);
  const auto restore = t.masked ? restore_row<true> : restore_row<false>;
  for (std::int64_t r = t.row; r < t.row + t.count; ++r, scores += kKeyBlock, gradients += kKeyBlock)
    restore(scores, gradients, t, visible_columns(a, first_key, begin + r, t.n), exponent_factor(a),
            log_sum_exp[begin + r], w.row_sum + r * kLanes);
}

// Replaces the gradients of a tile's probabilities by those of its scores, and packs probabilities and gradients for
// the next products: in place with the depth along the queries; in bf16, the gradients also in `grad_score_rows` with
// the depth along the keys. delta: for each query, the sum of probabilities times gradients. kCapped: multiplies by
// slopes.
template <typename T, bool kCapped>
void differentiate_scores(float* probabilities, float* gradients, const float* slopes, float* grad_score_rows,
                          const Tile& t, const float* delta) {
  for (std::int64_t r = 0; r < t.count; r += Packing<T>::kEach) {
    float *p_row = probabilities + r * kKeyBlock, *gradient_row = gradients + r * kKeyBlock;
    const float* slope_row = slopes + r * kKeyBlock;
    for (std::int64_t n = 0; n < t.columns; n += kLanes) {
      const Vector p = load(p_row + n);
      Vector gradient = p * (load(gradient_row + n) - splat(delta[r]));
      if (kCapped) gradient *= load(slope_row + n);
      if constexpr (Packing<T>::kEach == 1) {
        store(gradient_row + n, gradient);
      } else {
        Vector second_p{}, second_gradient{};
        if (r + 1 < t.count) {
          second_p = load(p_row + kKeyBlock + n);
          second_gradient = second_p * (load(gradient_row + kKeyBlock + n) - splat(delta[r + 1]));
          if (kCapped) second_gradient *= load(slope_row + kKeyBlock + n);
        }
        store_pairs(p_row + n, narrow(p), narrow(second_p));
        store_pairs(gradient_row + n, narrow(gradient), narrow(second_gradient));
        T* by_keys = reinterpret_cast<T*>(grad_score_rows) + r * kKeyBlock + n;
        store_some(by_keys, kLanes, gradient);
        store_some(by_keys + kKeyBlock, kLanes, second_gradient);
      }
    }
  }
}

// Adds a tile's part of the gradients of queries, keys and values. delta: as above, from the tile's first query.
template <typename T>
void differentiate_tile(const Attention& a, const BackwardWorkspace& w, const BackwardOperands<T>& o, const Tile& t,
                        const float* delta) {
  using Number = typename Packing<T>::Number;
  constexpr std::int64_t kEach = Packing<T>::kEach;
  float *scores = tile_of(a, w.scores, t), *gradients = tile_of(a, w.grad_scores, t);
  if (a.soft_cap > 0)
    differentiate_scores<T, true>(scores, gradients, tile_of(a, w.slopes, t), w.grad_score_rows, t, delta);
  else
    differentiate_scores<T, false>(scores, gradients, scores, w.grad_score_rows, t, delta);
  const auto* probabilities = reinterpret_cast<const Number*>(scores);
  const auto* by_queries = reinterpret_cast<const Number*>(gradients);
  const auto* by_keys = kEach > 1 ? reinterpret_cast<const Number*>(w.grad_score_rows) : by_queries;
  const std::int64_t width = o.width, row = t.row / kEach * kPanel, query_depth = divide_up(t.count, kEach);
  multiply<true>(t.columns, width, query_depth, probabilities, 1, kEach * kKeyBlock, o.grad_out_panels + row,
                 o.query_panel, w.grad_v + t.n * width, width);
  multiply<true>(t.columns, width, query_depth, by_queries, 1, kEach * kKeyBlock, o.q_panels + row, o.query_panel,
                 w.grad_k + t.n * width, width);
  multiply<true>(t.count, width, t.columns / kEach, by_keys, kKeyBlock / kEach, 1, o.keys + t.n / kEach * kPanel,
                 o.key_panel, w.grad_q + t.row * width, width);
}

// Passes over the keys of a stripe twice, because the gradient of a score needs the sum of its row's probabilities
// times their gradients. The output times its gradient equals that sum, but would require the output to be saved.
template <typename T>
void backward_task(const Attention& a, const Task& task, float* workspace) {
  const auto [sequence, group, split] = task;
  const BackwardWorkspace w(a, workspace);
  const BackwardOperands<T> operands(a, w);
  const std::int64_t head_dim = a.head_dim, width = operands.width;
  const std::int32_t* first_key = a.first_key + sequence * a.first_key_stride;
  const std::int64_t group_size = a.num_heads / a.num_key_value_heads, stripe = stripe_rows(a);
  operands.pack_keys(a, task);
  clear(w.grad_k, 2 * padded_keys(a) * width);  // and grad_v
  for (std::int64_t head = group * group_size; head < (group + 1) * group_size; ++head) {
    const float* log_sum_exp = a.log_sum_exp + (sequence * a.num_heads + head) * a.num_queries;
    for (std::int64_t begin = split * stripe; begin < a.num_queries; begin += a.num_splits * stripe) {
      const std::int64_t rows = smaller(stripe, a.num_queries - begin);
      operands.pack_queries(a, sequence, head, begin, rows);
      clear(w.row_sum, rows * kLanes);
      for_each_tile(a, first_key, begin, rows,
                    [&](const Tile& t) { restore_tile<T>(a, w, operands, t, first_key, begin, log_sum_exp); });
      float* delta = w.row_sum;  // in place: each is stored after the lanes still to be read
      for (std::int64_t r = 0; r < rows; ++r) delta[r] = sum_of(load(w.row_sum + r * kLanes));
      clear(w.grad_q, rows * width);
      for_each_tile(a, first_key, begin, rows,
                    [&](const Tile& t) { differentiate_tile<T>(a, w, operands, t, delta + t.row); });
      unpack_rows(w.grad_q, width, rows, head_dim, a.scale,
                  head_of<T>(a.grad_q, sequence, head) + begin * a.grad_q.position_stride, a.grad_q.position_stride);
    }
  }
  if (a.num_splits == 1) {
    unpack_rows(w.grad_k, width, a.num_keys, head_dim, a.scale, head_of<T>(a.grad_k, sequence, group),
                a.grad_k.position_stride);
    unpack_rows(w.grad_v, width, a.num_keys, head_dim, 1, head_of<T>(a.grad_v, sequence, group),
                a.grad_v.position_stride);
  } else {
    const std::int64_t begin = ((split * a.batch + sequence) * a.num_key_value_heads + group) * a.num_keys * head_dim;
    unpack_rows(w.grad_k, width, a.num_keys, head_dim, a.scale, a.grad_k_splits + begin, head_dim);
    unpack_rows(w.grad_v, width, a.num_keys, head_dim, 1, a.grad_v_splits + begin, head_dim);
  }
}

}  // namespace

void attention_forward(const Attention& a, std::int64_t begin, std::int64_t end, float* workspace) {
  for (std::int64_t task = begin; task < end; ++task) ADEPT_FOR_ELEMENT(forward_task, a, Task(a, task), workspace);
}

void attention_backward(const Attention& a, std::int64_t begin, std::int64_t end, float* workspace) {
  for (std::int64_t task = begin; task < end; ++task) ADEPT_FOR_ELEMENT(backward_task, a, Task(a, task), workspace);
}

}  // namespace adept::kernels::ADEPT_INSTRUCTION_SET
