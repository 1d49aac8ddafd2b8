// Finds silent corruption by faulty memory or processors: gradients with other bits when they are computed again
// (train.verify_every), and frozen weights that change by themselves.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/dist/process_group.h"
#include "adept/model/decoder.h"
#include "adept/train/trainable.h"

namespace adept::train {

/// A computation or a tensor has other bits than it must have. Exit code 1.
class CorruptionError : public Error {
 public:
  using Error::Error;
};

/// What identifies the bits of a tensor. A copy would take as much memory as the tensor; this takes 1/2048.
struct TensorBits {
  std::vector<std::uint64_t> blocks{};  ///< block_hashes()
  double norm = 0;                      ///< for messages
};
TensorBits bits_of(const at::Tensor& tensor);

/// Of one computation of a step's gradients, on this rank.
class GradientRecord {
 public:
  explicit GradientRecord(const Trainable& trainable) : trainable_(trainable) {}

  /// Call in the backward pass for gradients that this rank does not keep.
  void add_sent(std::size_t index, const at::Tensor& gradient) { sent_[index] = bits_of(gradient); }
  /// Call after the backward pass of a micro-batch, named `part`, before its gradients are added to those of other
  /// ranks. `loss` (): its share of that of the step.
  void add(std::string part, const at::Tensor& loss);
  /// Call when the gradients of all ranks are added.
  void finish(double loss);

 private:
  friend std::string difference_of(const GradientRecord&, const GradientRecord&, dist::ProcessGroup&);
  struct Part {
    std::string name;
    double loss = 0;
    std::vector<TensorBits> gradients;
  };
  static Part make_part(std::string name, double loss, std::span<const at::Tensor> gradients);
  std::string difference(std::span<const Part> first, std::span<const Part> second) const;

  const Trainable& trainable_;
  std::map<std::size_t, TensorBits> sent_;  // since the last part
  std::vector<Part> own_;                   // of micro-batches
  std::vector<Part> total_;                 // of all ranks
};

/// What differs first in two computations of the same gradients: the rank and its machine, the micro-batch, the loss,
/// the first gradient and how much of it; empty if nothing does. Every rank calls it and gets the same text.
std::string difference_of(const GradientRecord& first, const GradientRecord& second, dist::ProcessGroup& group);

/// The error for step `step`, which `difference` was found in. Call when unverified checkpoints are set aside.
CorruptionError unequal_step(std::int64_t step, const std::string& difference, const std::filesystem::path& run_dir);

/// The bits of the frozen weights that this rank has, which no step may change. FrozenTensors finds only writes by the
/// program.
class FrozenBits {
 public:
  /// Reads all of them. `step`: completed steps.
  FrozenBits(const model::Decoder& decoder, const Trainable& trainable, std::int64_t step);
  /// Hashes of those that every rank has whole, as they were first.
  dist::HeldByName replicated() const;
  /// Reads all again, after `step` completed steps. Throws CorruptionError with the name of a tensor that differs.
  void verify(std::int64_t step, const std::filesystem::path& run_dir);

 private:
  struct Bits {
    std::vector<std::uint64_t> blocks;  // block_hashes()
    bool is_divided = false;            // a part that this rank alone has
  };
  std::map<std::string, Bits> read() const;

  const model::Decoder& decoder_;
  const Trainable& trainable_;
  std::map<std::string, Bits> bits_;
  std::int64_t step_;  // of the last time that they were right
};

}  // namespace adept::train
