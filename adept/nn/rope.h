// Rotary position embeddings (Su et al., arXiv 2104.09864), in the "rotate half" layout of transformers.
//
// Legend: B sequences, H heads, T tokens, E head_dim, R = rotary dimensions of a head (even, at most E).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace adept::nn {

enum class RopeType { kDefault, kLinear, kLlama3, kLongRope };

/// What decides the frequencies. https://huggingface.co/docs/transformers/internal/rope_utils
struct RopeParameters {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                          ///< linear, llama3: context extension
  double low_freq_factor = 1.0;                 ///< llama3
  double high_freq_factor = 4.0;                ///< llama3
  double original_max_position_embeddings = 0;  ///< llama3, longrope: context length of the base training, tokens
  double partial_rotary_factor = 1;             ///< share of a head's dimensions that rotate: the first ones
  double attention_factor = 1;                  ///< longrope: of the cosines and sines
  std::vector<double> short_factor{};           ///< longrope: (R/2), what each frequency is divided by in a text of at
                                                ///< most original_max_position_embeddings tokens
  std::vector<double> long_factor{};            ///< longrope: (R/2), in a longer one

  bool operator==(const RopeParameters&) const = default;

  /// Dimensions of a head that rotate.
  std::int64_t rotary_dim(std::int64_t head_dim) const;
  /// Whether a text of so many tokens has the frequencies of longrope's long texts.
  bool is_long(std::int64_t length) const {
    return type == RopeType::kLongRope && static_cast<double>(length) > original_max_position_embeddings;
  }
};

/// Cosines and sines of positions 0 .. T-1: (T, R/2), or (B, T, R/2) where each sequence has its own.
struct RopeTables {
  at::Tensor cos, sin;

  /// Numbers from a sequence's table to the next one's, where they are contiguous; 0: there is one.
  std::int64_t row_stride() const { return cos.dim() == 3 ? cos.size(1) * cos.size(2) : 0; }
};

/// Frequencies in radians per token for a text of `length` tokens, which only longrope looks at: (R/2) fp32, on the
/// CPU.
at::Tensor rope_frequencies(const RopeParameters& parameters, std::int64_t head_dim, std::int64_t length = 0);

/// Tables for positions 0 .. length-1 of a text of `length` tokens, computed in fp32 and rounded to `dtype`, on
/// `device`.
RopeTables rope_tables(const RopeParameters& parameters, std::int64_t head_dim, std::int64_t length,
                       at::ScalarType dtype = at::kFloat, at::Device device = at::kCPU);

/// Tables of batches whose rows differ in their frequencies (RopeCache::get_rows), so that all layers of a pass share
/// them. Thread-safe.
class RowTables {
 public:
  /// What tables depend on. Batches are told apart by their tensors' identity.
  struct Key {
    RopeParameters parameters;
    std::int64_t head_dim = 0, num_positions = 0;
    at::Tensor document_starts, lengths;
    at::ScalarType dtype = at::kFloat;
    at::Device device = at::kCPU;

    bool operator==(const Key& other) const;
  };

  /// The tables for the key; the first call computes them by `make`.
  RopeTables get(const Key& key, const std::function<RopeTables()>& make);

 private:
  std::mutex mutex_;
  std::vector<std::pair<Key, RopeTables>> tables_;  // a few: one for each set of rotary frequencies of a model
};

/// Caches the tables of rope_tables() for texts of any length; recomputes them for a longer text, another dtype or
/// another device. Thread-safe.
class RopeCache {
 public:
  RopeCache(RopeParameters parameters, std::int64_t head_dim);

  /// Of the positions begin .. end-1 of a text of `length` tokens: (end - begin, R/2).
  RopeTables get(std::int64_t begin, std::int64_t end, std::int64_t length, at::ScalarType dtype, at::Device device);

  /// Of the positions 0 .. T-1 of a batch's rows, whose texts are the documents of document_starts (B, T) as in
  /// Visibility or, where that is undefined, the first tokens of each row: lengths (B) int64 on the CPU, undefined
  /// where no row is padded. (T, R/2) where all take the same frequencies. Positions do not start again with a
  /// document: rotations are relative, so that only longrope tells a document in a sequence from that document alone.
  /// `kept`, if given, keeps tables for later calls with the same arguments.
  RopeTables get_rows(std::int64_t num_positions, const at::Tensor& document_starts, const at::Tensor& lengths,
                      at::ScalarType dtype, at::Device device, RowTables* kept = nullptr);

 private:
  /// get_rows() of rows longer than what longrope's short frequencies are for.
  RopeTables make_rows(std::int64_t num_positions, const at::Tensor& document_starts, const at::Tensor& lengths,
                       at::ScalarType dtype, at::Device device);
  /// Of positions 0 .. at least length-1.
  RopeTables table(bool is_long, std::int64_t length, at::ScalarType dtype, at::Device device);

  RopeParameters parameters_;
  std::int64_t head_dim_;
  std::mutex mutex_;
  RopeTables short_, long_;  // of texts up to the length at which the frequencies change, and beyond
};

/// Rotates the first R dimensions of x (B, H, T, E) by the angles of the tables: (x1 cos - x2 sin, x2 cos + x1 sin) for
/// their halves x1, x2; the others stay. The tables have x's dtype. The gradient saves nothing but the tables.
at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables);

}  // namespace adept::nn
