// Block sizes of the attention kernel, and the layout of its workspace. Everything has internal linkage, because the
// files that include this are compiled for different instruction sets (CMakeLists.txt).
#pragma once

#include "adept/kernels/attention.h"

namespace adept::kernels {
namespace {

/// A tile is the scores of 48 queries and 64 keys. The tile and its operands fit in a first-level cache of 48 KB.
constexpr std::int64_t kQueryTile = 48;
constexpr std::int64_t kKeyBlock = 64;
/// If a query of a tile cannot see all 64 keys, the tile is computed in groups of 12 queries, and keys that no query of
/// a group sees are skipped.
constexpr std::int64_t kDiagonalTile = 12;
static_assert(kQueryTile % kDiagonalTile == 0 && kDiagonalTile % 2 == 0, "a pair of queries stays in one group");
/// The keys of a head stay in a small second-level cache (512 KB) if they are at most this many floats.
constexpr std::int64_t kCachedKeyFloats = std::int64_t{1} << 17;
/// head_dim is padded to a multiple of the widest vector for buffers of rows, and to a multiple of the widest panel
/// (kPanel columns, next to each other in memory) for buffers of panels.
constexpr std::int64_t kRowAlignment = 16;
constexpr std::int64_t kPanelAlignment = 64;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) { return divide_up(n, step) * step; }
constexpr std::int64_t padded_head_dim(const Attention& a) { return round_up(a.head_dim, kRowAlignment); }
constexpr std::int64_t panels_of_head_dim(const Attention& a) { return round_up(a.head_dim, kPanelAlignment); }
constexpr std::int64_t padded_keys(const Attention& a) { return round_up(a.num_keys, kKeyBlock); }

/// Queries that are processed together: for each block of keys, all of their tiles. One tile; several if the keys of a
/// head do not fit in the second-level cache, so that each block of keys is loaded less often.
constexpr std::int64_t stripe_rows(const Attention& a) {
  return (a.num_keys * padded_head_dim(a) <= kCachedKeyFloats ? 1 : 4) * kQueryTile;
}

/// Buffers of a forward task, which processes one key-value head stripe by stripe (stripe_rows). Sizes are for fp32; a
/// processor that multiplies bf16 uses half of `keys`, `values` and `q`. Legend: S padded keys, W padded head_dim, R
/// rows of a stripe, P columns of a panel.
struct ForwardWorkspace {
  float* keys;     ///< transposed, in panels: (S / P, E, P)
  float* values;   ///< in panels: (W / P, S, P)
  float* q;        ///< (R, W)
  float* out;      ///< (R, W), not yet divided by the sums of the rows
  float* scores;   ///< one tile, then its probabilities
  float* row_sum;  ///< (R, lanes): partial sums of each row's probabilities
  float* base;     ///< (R): the exponent that each row's probabilities are relative to

  /// In floats.
  static std::int64_t size(const Attention& a) {
    return padded_keys(a) * (padded_head_dim(a) + panels_of_head_dim(a)) +
           stripe_rows(a) * (2 * padded_head_dim(a) + kRowAlignment + 1) + kQueryTile * kKeyBlock;
  }

  ForwardWorkspace(const Attention& a, float* begin) {
    const std::int64_t width = padded_head_dim(a), rows = padded_keys(a), queries = stripe_rows(a);
    keys = begin;
    values = keys + rows * width;
    q = values + rows * panels_of_head_dim(a);
    out = q + queries * width;
    scores = out + queries * width;
    row_sum = scores + kQueryTile * kKeyBlock;
    base = row_sum + queries * kRowAlignment;
  }
};

/// Buffers of a backward task. As in ForwardWorkspace; N blocks of keys.
struct BackwardWorkspace {
  float *keys_t, *values_t;           ///< transposed, in panels: (S / P, E, P)
  float* keys;                        ///< in panels: (W / P, S, P)
  float *grad_k, *grad_v;             ///< (S, W)
  float *q, *q_panels;                ///< (R, W), and in panels: (W / P, R, P)
  float *grad_out, *grad_out_panels;  ///< the same
  float* grad_q;                      ///< (R, W)
  float* row_sum;                     ///< (R, lanes): partial sums of each row's probabilities times their gradients
  float* scores;                      ///< (N, R, 64), then the probabilities
  float* grad_scores;                 ///< (N, R, 64): of the probabilities, then of the scores
  float* grad_score_rows;             ///< one tile of grad_scores in bf16, row by row; unused in fp32
  float* slopes;                      ///< (N, R, 64): derivatives of capped scores, if there is a cap

  /// In floats.
  static std::int64_t size(const Attention& a) {
    return padded_keys(a) * (4 * padded_head_dim(a) + panels_of_head_dim(a)) +
           stripe_rows(a) * (3 * padded_head_dim(a) + 2 * panels_of_head_dim(a) + kRowAlignment +
                             (a.soft_cap > 0 ? 3 : 2) * padded_keys(a)) +
           kQueryTile * kKeyBlock / 2;
  }

  BackwardWorkspace(const Attention& a, float* begin) {
    const std::int64_t width = padded_head_dim(a), rows = padded_keys(a), queries = stripe_rows(a);
    const std::int64_t panels = panels_of_head_dim(a);
    keys_t = begin;
    values_t = keys_t + rows * width;
    keys = values_t + rows * width;
    grad_k = keys + rows * panels;
    grad_v = grad_k + rows * width;
    q = grad_v + rows * width;
    q_panels = q + queries * width;
    grad_out = q_panels + queries * panels;
    grad_out_panels = grad_out + queries * width;
    grad_q = grad_out_panels + queries * panels;
    row_sum = grad_q + queries * width;
    scores = row_sum + queries * kRowAlignment;
    grad_scores = scores + queries * rows;
    grad_score_rows = grad_scores + queries * rows;
    slopes = grad_score_rows + kQueryTile * kKeyBlock / 2;
  }
};

/// Number of tasks, one for each sequence, key-value head and split. They can run in any order and on any thread, each
/// with its own workspace.
constexpr std::int64_t num_tasks(const Attention& a) { return a.batch * a.num_key_value_heads * a.num_splits; }

}  // namespace
}  // namespace adept::kernels
