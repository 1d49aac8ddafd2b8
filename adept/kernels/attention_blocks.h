// How the attention kernel cuts its work, and where things lie in its workspace. All has internal linkage, as the files
// that include this are compiled for different instruction sets (CMakeLists.txt).
#pragma once

#include "adept/kernels/attention.h"

namespace adept::kernels {
namespace {

/// A tile of scores is 48 queries x 64 keys: with what it is made from it fits into a first-level cache of 48 KB.
constexpr std::int64_t kQueryTile = 48;
constexpr std::int64_t kKeyBlock = 64;
/// Where not every query of a tile sees the whole block, so many queries at once: less is computed in vain.
constexpr std::int64_t kDiagonalTile = 12;
static_assert(kQueryTile % kDiagonalTile == 0 && kDiagonalTile % 2 == 0, "pairs of queries are never cut");
/// Numbers of a head's keys that stay near: 512 KB, a small second-level cache.
constexpr std::int64_t kNearNumbers = std::int64_t{1} << 17;
/// Rows are padded to the widest vector, where they lie in panels to the widest of those.
constexpr std::int64_t kRowAlignment = 16;
constexpr std::int64_t kPanelAlignment = 64;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) { return divide_up(n, step) * step; }
constexpr std::int64_t padded_head_dim(const Attention& a) { return round_up(a.head_dim, kRowAlignment); }
constexpr std::int64_t panels_of_head_dim(const Attention& a) { return round_up(a.head_dim, kPanelAlignment); }
constexpr std::int64_t padded_keys(const Attention& a) { return round_up(a.num_keys, kKeyBlock); }

/// So many queries go over the keys at once, tile by tile at each block of keys: one tile, or several where a head's
/// keys are too many to stay in a second-level cache until the next one.
constexpr std::int64_t stripe_rows(const Attention& a) {
  return (a.num_keys * padded_head_dim(a) <= kNearNumbers ? 1 : 4) * kQueryTile;
}

/// Lengths are of single numbers; of pairs of bf16 the same memory holds as many elements twice. P: columns of a panel.
///
/// Of one key-value head: keys transposed, panel by panel (S / P, E, P), values in panels (E / P, S, P); and of the
/// stripe in work: queries, outputs, the rows' sums lane by lane, what their probabilities are relative to, and a tile
/// of scores.
struct ForwardWorkspace {
  float *keys, *values, *q, *out, *scores, *row_sum, *base;

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

/// Of one key-value head: keys and values transposed, panel by panel, keys in panels, and both gradients; of the stripe
/// in work: queries and gradient of the output, row by row and in panels, gradient of the queries, the rows' sums lane
/// by lane, and of all keys (blocks, rows of the stripe, 64) probabilities, the gradient of the scores and, where these
/// are capped, the derivative of the cap; the gradient of one tile as pairs row by row once more.
struct BackwardWorkspace {
  float *keys_t, *values_t, *keys, *grad_k, *grad_v, *q, *q_panels, *grad_out, *grad_out_panels, *grad_q, *row_sum,
      *scores, *grad_scores, *grad_score_rows, *slopes;

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

/// The work is cut into tasks that can run in any order and on any thread, each with a workspace of its own: one for
/// each sequence, key-value head and split.
constexpr std::int64_t num_tasks(const Attention& a) { return a.batch * a.num_key_value_heads * a.num_splits; }

}  // namespace
}  // namespace adept::kernels
