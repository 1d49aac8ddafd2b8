// AdamW with one learning rate per unit (Loshchilov & Hutter, arXiv 1711.05101; ADEPT, section 3.3). Its state is
// divided over the processes of a job (ZeRO-1, arXiv 1910.02054): each updates its part of every tensor.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/accumulate.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adept/optim/options.h"
#include "adept/optim/shard.h"
#include "adept/optim/whole_tensors.h"

namespace adept::optim {

/// One trainable tensor. Its fp32 master is shared with the owner and updated in place.
struct Parameter {
  std::string name;
  at::Tensor master;             ///< fp32: the whole tensor, or this rank's part, (n)
  std::optional<Shard> shard{};  ///< none: this process has the whole tensor

  /// Of the whole tensor.
  at::IntArrayRef shape() const { return shard ? at::IntArrayRef(shard->shape) : master.sizes(); }
  std::int64_t numel() const { return c10::multiply_integers(shape()); }
  /// This rank's part of a tensor of that shape.
  at::Tensor part_of(const at::Tensor& whole) const { return shard ? shard->of(whole) : whole; }
};

/// The optimizer state of one parameter, or of this rank's part of it.
struct Moments {
  at::Tensor exp_avg;     ///< fp32
  at::Tensor exp_avg_sq;  ///< fp32
};

/// By parameter name.
using MomentsByName = std::map<std::string, Moments>;

/// Prefixes of the names of moments.
inline constexpr char kExpAvg[] = "exp_avg.", kExpAvgSq[] = "exp_avg_sq.";

/// The rate of the slices begin .. end-1 of a parameter along `dim`.
struct RateSlice {
  std::int64_t dim = 0;  ///< 0: rows, 1: columns
  std::int64_t begin = 0;
  std::int64_t end = 0;
  double rate = 0;
};

/// By parameter name: disjoint slices that cover it.
using ParameterRates = std::map<std::string, std::vector<RateSlice>>;

/// One entry per unit. With every rate equal it is torch.optim.AdamW(fused=True) bit for bit; a rate of 0 leaves the
/// unit's weights bit-identical (its moments still move).
class AdamW {
 public:
  /// Moments start at zero. Throws InternalError for masters that are not fp32 or names that repeat.
  AdamW(std::vector<Parameter> parameters, AdamWOptions options);

  /// One update of this rank's part of the masters. `gradients`, fp32, one for each parameter in their order and of its
  /// master's size, are those of the whole global batch; they are scaled by `grad_factor` (clipping), possibly in
  /// place. `learning_rates` contains the rate of every parameter by name, including the schedule; a missing or unknown
  /// name is an InternalError.
  void step(const std::vector<at::Tensor>& gradients, const ParameterRates& learning_rates, double grad_factor = 1.0);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const AdamWOptions& options() const { return options_; }
  /// This rank's part of the moments.
  const MomentsByName& moments() const { return moments_; }
  /// What this rank has of the state, for WholeTensors: the masters, then the moments (kExpAvg, kExpAvgSq), each in the
  /// order of names. It must not outlive the optimizer.
  std::vector<NamedPart> state() const;
  /// Takes this rank's part of a whole master and its moments.
  void restore(const Parameter& parameter, const at::Tensor& master, const Moments& moments);
  /// Updates made so far; they set the bias correction.
  std::int64_t num_updates() const { return num_updates_; }
  void set_num_updates(std::int64_t num_updates) { num_updates_ = num_updates; }

 private:
  /// What one call of the kernel updates.
  struct Group {
    std::vector<at::Tensor> masters, grads, exp_avgs, exp_avg_sqs;
    void add(const at::Tensor& master, const at::Tensor& grad, const Moments& moments);
  };
  void update(const Group& group, double rate, double weight_decay, const std::optional<at::Tensor>& grad_scale);
  using Groups = std::map<std::pair<double, double>, Group>;  // by rate and weight decay
  void step_part(const Parameter& p, const at::Tensor& gradient, const std::vector<RateSlice>& slices,
                 const std::optional<at::Tensor>& grad_scale, Groups& groups);

  std::vector<Parameter> parameters_;
  AdamWOptions options_;
  MomentsByName moments_;
  std::int64_t num_updates_ = 0;
};

/// The square of the 2-norm of all gradients together, in fp64: () on their device. Not finite if any gradient is not.
at::Tensor squared_grad_norm(const std::vector<at::Tensor>& gradients);

/// Factor that brings a global norm down to `max_norm`; 1 if it is smaller or max_norm is 0 (no clipping). The formula
/// is that of torch.nn.utils.clip_grad_norm_.
double clip_factor(double norm, double max_norm);

}  // namespace adept::optim
