// AdamW with one learning rate per unit (Loshchilov & Hutter, arXiv 1711.05101; ADEPT, section 3.3). Its state is
// divided over the processes of a job (ZeRO-1, arXiv 1910.02054): each updates its rows of every tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adept/dist/process_group.h"
#include "adept/optim/options.h"
#include "adept/optim/row_shard.h"

namespace adept::optim {

/// One trainable tensor. Its fp32 master is shared with the owner and updated in place.
struct Parameter {
  std::string name;
  at::Tensor master;  ///< fp32
};

/// The optimizer state of one parameter, or of this rank's rows of it.
struct Moments {
  at::Tensor exp_avg;     ///< fp32
  at::Tensor exp_avg_sq;  ///< fp32
};

/// By parameter name.
using MomentsByName = std::map<std::string, Moments>;

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
  AdamW(std::vector<Parameter> parameters, AdamWOptions options, dist::ProcessGroup& ranks = dist::world());

  /// One update; every rank then has all of the new masters. `gradients`, fp32, one for each parameter in their order,
  /// are those of the whole global batch; they are scaled by `grad_factor` (clipping), possibly in place.
  /// `learning_rates` contains the rate of every parameter by name, including the schedule; a missing or unknown name
  /// is an InternalError.
  void step(const std::vector<at::Tensor>& gradients, const ParameterRates& learning_rates, double grad_factor = 1.0);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const AdamWOptions& options() const { return options_; }
  /// This rank's rows of the moments.
  const MomentsByName& moments() const { return moments_; }
  /// The whole moments, on rank 0; nothing on the others. Every rank calls it.
  MomentsByName gather_moments() const;
  /// Takes this rank's rows of the whole moments of a parameter.
  void restore_moments(const std::string& name, const Moments& whole);
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
  void step_rows(const Parameter& p, const at::Tensor& gradient, const std::vector<RateSlice>& slices,
                 const std::optional<at::Tensor>& grad_scale, Groups& groups);
  void gather_masters();

  std::vector<Parameter> parameters_;
  AdamWOptions options_;
  dist::ProcessGroup* ranks_;
  MomentsByName moments_;
  std::int64_t num_updates_ = 0;
};

/// The square of the 2-norm of all gradients together, in fp64: () on their device. Not finite if any gradient is not.
at::Tensor squared_grad_norm(const std::vector<at::Tensor>& gradients);

/// Factor that brings a global norm down to `max_norm`; 1 if it is smaller or max_norm is 0 (no clipping). The formula
/// is that of torch.nn.utils.clip_grad_norm_.
double clip_factor(double norm, double max_norm);

}  // namespace adept::optim
