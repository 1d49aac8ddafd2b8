// Legend: H query heads, G of them for each key-value head, T queries, S keys, E head_dim, W = E padded.
#include "adept/kernels/attention_blocks.h"
#include "adept/kernels/simd/functions.h"
#include "adept/kernels/simd/vector.h"

namespace adept::kernels::ADEPT_INSTRUCTION_SET {
namespace {

constexpr float kInfinity = __builtin_inff();

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

template <typename T>
T* head_of(const Heads& heads, std::int64_t sequence, std::int64_t head) {
  return static_cast<T*>(heads.data) + sequence * heads.batch_stride + head * heads.head_stride;
}

// (rows, E) -> (rows, W) in fp32, times `factor`; padding is zero.
template <typename T>
void pack_rows(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t head_dim, std::int64_t width,
               float factor, float* to) {
  for (std::int64_t i = 0; i < rows; ++i, from += stride, to += width) {
    for (std::int64_t e = 0; e < head_dim; ++e) to[e] = factor * widen(from[e]);
    for (std::int64_t e = head_dim; e < width; ++e) to[e] = 0;
  }
}

// (rows, E) -> (blocks, E, 64): the rows of a block become columns; those that are not there are zero.
template <typename T>
void pack_transposed(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t head_dim, float* to) {
  for (std::int64_t begin = 0; begin < rows; begin += kKeyBlock, to += head_dim * kKeyBlock) {
    const std::int64_t count = smaller(kKeyBlock, rows - begin);
    const T* block = from + begin * stride;
    for (std::int64_t e = 0; e < head_dim; ++e) {
      for (std::int64_t i = 0; i < count; ++i) to[e * kKeyBlock + i] = widen(block[i * stride + e]);
      for (std::int64_t i = count; i < kKeyBlock; ++i) to[e * kKeyBlock + i] = 0;
    }
  }
}

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

// One piece of the work: see num_units().
struct Unit {
  std::int64_t sequence, group, part;

  Unit(const Attention& a, std::int64_t index)
      : sequence(index / a.num_parts / a.num_key_value_heads),
        group(index / a.num_parts % a.num_key_value_heads),
        part(index % a.num_parts) {}
};

// Columns of a row of scores that its query sees: low <= column <= high.
struct Visible {
  std::int64_t low, high;
};

// Columns are few, so they are exact as floats.
Vector hide(Vector values, std::int64_t column, Visible visible, Vector lanes, float hidden) {
  const Vector number = lanes + splat(static_cast<float>(column));
  const Vector low = splat(static_cast<float>(larger(visible.low, -1)));
  const Vector high = splat(static_cast<float>(smaller(visible.high, kKeyBlock)));
  const Vector not_low = number < low ? splat(hidden) : values;
  return number > high ? splat(hidden) : not_low;
}

// Scores become probabilities relative to the largest so far; sums and outputs of earlier blocks are rescaled.
void soften_row(float* scores, std::int64_t columns, bool masked, Visible visible, float& row_max, float& row_sum,
                float* out, std::int64_t width) {
  const Vector lanes = lane_numbers();
  Vector most = splat(-kInfinity);
  for (std::int64_t n = 0; n < columns; n += kLanes) {
    Vector s = load(scores + n);
    if (masked) {
      s = hide(s, n, visible, lanes, -kInfinity);
      store(scores + n, s);
    }
    most = maximum(most, s);
  }
  const float block_max = largest_of(most), new_max = block_max <= row_max ? row_max : block_max;  // NaN stays
  if (new_max == -kInfinity) {  // nothing of this block is seen, nor of any before it
    for (std::int64_t n = 0; n < columns; n += kLanes) store(scores + n, Vector{});
    return;
  }
  Vector sum{};
  for (std::int64_t n = 0; n < columns; n += kLanes) {
    const Vector p = exponential(load(scores + n) - splat(new_max));
    store(scores + n, p);
    sum += p;
  }
  const float block_sum = sum_of(sum);
  if (new_max == row_max) {
    row_sum += block_sum;
    return;
  }
  const float rescale = exponential(splat(row_max - new_max))[0];
  row_sum = row_sum * rescale + block_sum;
  row_max = new_max;
  for (std::int64_t e = 0; e < width; e += kLanes) store(out + e, load(out + e) * splat(rescale));
}

template <typename T>
void forward_unit(const Attention& a, const Unit& unit, float* workspace) {
  const auto [sequence, group, part] = unit;
  const ForwardWorkspace w(a, workspace);
  const std::int64_t head_dim = a.head_dim, width = padded_head_dim(a), offset = a.num_keys - a.num_queries;
  const std::int32_t* first_key = a.first_key + sequence * a.first_key_stride;
  const std::int64_t group_size = a.num_heads / a.num_key_value_heads;
  pack_transposed(head_of<const T>(a.k, sequence, group), a.k.position_stride, a.num_keys, head_dim, w.keys);
  pack_rows(head_of<const T>(a.v, sequence, group), a.v.position_stride, a.num_keys, head_dim, width, 1, w.values);
  // Scores of keys that are not there are hidden, but 0 * NaN would be NaN.
  std::memset(w.values + a.num_keys * width, 0,
              sizeof(float) * static_cast<std::size_t>((padded_keys(a) - a.num_keys) * width));
  for (std::int64_t head = group * group_size; head < (group + 1) * group_size; ++head) {
    const T* q = head_of<const T>(a.q, sequence, head);
    T* out = head_of<T>(a.out, sequence, head);
    for (std::int64_t begin = part * kQueryTile; begin < a.num_queries; begin += a.num_parts * kQueryTile) {
      const std::int64_t rows = smaller(kQueryTile, a.num_queries - begin);
      const std::int64_t last_key = offset + begin + rows - 1;
      pack_rows(q + begin * a.q.position_stride, a.q.position_stride, rows, head_dim, width, a.scale, w.q);
      std::memset(w.out, 0, sizeof(float) * static_cast<std::size_t>(rows * width));
      for (std::int64_t r = 0; r < rows; ++r) w.row_max[r] = -kInfinity, w.row_sum[r] = 0;
      for (std::int64_t n = first_key[begin] / kKeyBlock * kKeyBlock; n <= last_key; n += kKeyBlock) {
        const std::int64_t columns = smaller(kKeyBlock, round_up(last_key + 1 - n, kLanes));
        multiply<false>(rows, columns, head_dim, w.q, width, 1, w.keys + n * head_dim, kKeyBlock, w.scores, kKeyBlock);
        const bool masked = n + columns - 1 > offset + begin || n < first_key[begin + rows - 1];
        for (std::int64_t r = 0; r < rows; ++r)
          soften_row(w.scores + r * kKeyBlock, columns, masked, {first_key[begin + r] - n, offset + begin + r - n},
                     w.row_max[r], w.row_sum[r], w.out + r * width, width);
        multiply<true>(rows, width, columns, w.scores, kKeyBlock, 1, w.values + n * width, width, w.out, width);
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        unpack_rows(w.out + r * width, width, 1, head_dim, 1 / w.row_sum[r], out + (begin + r) * a.out.position_stride,
                    a.out.position_stride);
        if (a.log_sum_exp != nullptr)
          a.log_sum_exp[(sequence * a.num_heads + head) * a.num_queries + begin + r] =
              w.row_max[r] + __builtin_logf(w.row_sum[r]);
      }
    }
  }
}

// scores -> probabilities, grad_scores -> gradient of the scores.
void differentiate_row(float* scores, float* grad_scores, std::int64_t columns, bool masked, Visible visible,
                       float log_sum_exp, float delta) {
  const Vector lanes = lane_numbers();
  for (std::int64_t n = 0; n < columns; n += kLanes) {
    Vector p = exponential(load(scores + n) - splat(log_sum_exp));
    if (masked) p = hide(p, n, visible, lanes, 0);
    store(scores + n, p);
    store(grad_scores + n, p * (load(grad_scores + n) - splat(delta)));
  }
}

template <typename T>
void backward_unit(const Attention& a, const Unit& unit, float* workspace) {
  const auto [sequence, group, part] = unit;
  const BackwardWorkspace w(a, workspace);
  const std::int64_t head_dim = a.head_dim, width = padded_head_dim(a), offset = a.num_keys - a.num_queries;
  const std::int32_t* first_key = a.first_key + sequence * a.first_key_stride;
  const std::int64_t group_size = a.num_heads / a.num_key_value_heads;
  const T* k = head_of<const T>(a.k, sequence, group);
  const T* v = head_of<const T>(a.v, sequence, group);
  pack_transposed(k, a.k.position_stride, a.num_keys, head_dim, w.keys_t);
  pack_transposed(v, a.v.position_stride, a.num_keys, head_dim, w.values_t);
  pack_rows(k, a.k.position_stride, a.num_keys, head_dim, width, 1, w.keys);
  const std::int64_t padding = padded_keys(a) - a.num_keys;
  std::memset(w.keys + a.num_keys * width, 0, sizeof(float) * static_cast<std::size_t>(padding * width));
  std::memset(w.grad_k, 0, sizeof(float) * static_cast<std::size_t>(2 * padded_keys(a) * width));  // and grad_v
  for (std::int64_t head = group * group_size; head < (group + 1) * group_size; ++head) {
    const T* grad_out = head_of<const T>(a.grad_out, sequence, head);
    const T* out = head_of<const T>(a.out, sequence, head);
    pack_rows(head_of<const T>(a.q, sequence, head), a.q.position_stride, a.num_queries, head_dim, width, a.scale, w.q);
    pack_rows(grad_out, a.grad_out.position_stride, a.num_queries, head_dim, width, 1, w.grad_out);
    std::memset(w.grad_q, 0, sizeof(float) * static_cast<std::size_t>(a.num_queries * width));
    for (std::int64_t t = 0; t < a.num_queries; ++t) {
      float sum = 0;
      for (std::int64_t e = 0; e < head_dim; ++e)
        sum += widen(out[t * a.out.position_stride + e]) * widen(grad_out[t * a.grad_out.position_stride + e]);
      w.delta[t] = sum;
    }
    const float* log_sum_exp = a.log_sum_exp + (sequence * a.num_heads + head) * a.num_queries;
    for (std::int64_t n = part * kKeyBlock; n < a.num_keys; n += a.num_parts * kKeyBlock) {
      for (std::int64_t begin = larger(0, n - offset); begin < a.num_queries && first_key[begin] < n + kKeyBlock;
           begin += kQueryTile) {
        const std::int64_t rows = smaller(kQueryTile, a.num_queries - begin);
        const std::int64_t last_key = offset + begin + rows - 1;
        const std::int64_t columns = smaller(kKeyBlock, round_up(last_key + 1 - n, kLanes));
        const float *q = w.q + begin * width, *g = w.grad_out + begin * width;
        multiply<false>(rows, columns, head_dim, q, width, 1, w.keys_t + n * head_dim, kKeyBlock, w.scores, kKeyBlock);
        multiply<false>(rows, columns, head_dim, g, width, 1, w.values_t + n * head_dim, kKeyBlock, w.grad_scores,
                        kKeyBlock);
        const bool masked = n + columns - 1 > offset + begin || n < first_key[begin + rows - 1];
        for (std::int64_t r = 0; r < rows; ++r)
          differentiate_row(w.scores + r * kKeyBlock, w.grad_scores + r * kKeyBlock, columns, masked,
                            {first_key[begin + r] - n, offset + begin + r - n}, log_sum_exp[begin + r],
                            w.delta[begin + r]);
        multiply<true>(columns, width, rows, w.scores, 1, kKeyBlock, g, width, w.grad_v + n * width, width);
        multiply<true>(columns, width, rows, w.grad_scores, 1, kKeyBlock, q, width, w.grad_k + n * width, width);
        multiply<true>(rows, width, columns, w.grad_scores, kKeyBlock, 1, w.keys + n * width, width,
                       w.grad_q + begin * width, width);
      }
    }
    if (a.num_parts == 1)
      unpack_rows(w.grad_q, width, a.num_queries, head_dim, a.scale, head_of<T>(a.grad_q, sequence, head),
                  a.grad_q.position_stride);
    else
      unpack_rows(w.grad_q, width, a.num_queries, head_dim, a.scale,
                  a.grad_q_parts + ((part * a.batch + sequence) * a.num_heads + head) * a.num_queries * head_dim,
                  head_dim);
  }
  T* grad_k = head_of<T>(a.grad_k, sequence, group);
  T* grad_v = head_of<T>(a.grad_v, sequence, group);
  for (std::int64_t n = part * kKeyBlock; n < a.num_keys; n += a.num_parts * kKeyBlock) {
    const std::int64_t rows = smaller(kKeyBlock, a.num_keys - n);
    unpack_rows(w.grad_k + n * width, width, rows, head_dim, 1, grad_k + n * a.grad_k.position_stride,
                a.grad_k.position_stride);
    unpack_rows(w.grad_v + n * width, width, rows, head_dim, 1, grad_v + n * a.grad_v.position_stride,
                a.grad_v.position_stride);
  }
}

}  // namespace

void attention_forward(const Attention& a, std::int64_t begin, std::int64_t end, float* workspace) {
  for (std::int64_t unit = begin; unit < end; ++unit) ADEPT_FOR_ELEMENT(forward_unit, a, Unit(a, unit), workspace);
}

void attention_backward(const Attention& a, std::int64_t begin, std::int64_t end, float* workspace) {
  for (std::int64_t unit = begin; unit < end; ++unit) ADEPT_FOR_ELEMENT(backward_unit, a, Unit(a, unit), workspace);
}

}  // namespace adept::kernels::ADEPT_INSTRUCTION_SET
