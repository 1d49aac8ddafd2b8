// The floating point operations that a training step cannot do without, and how fast this machine does them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "adept/model/decoder.h"

namespace adept::train {

/// Per token of a sequence: the products with weights and of attention, forward and backward.
struct StepCost {
  double prefix_flops = 0;  ///< embed to the lowest trained layer, which an activation cache may have
  double flops = 0;         ///< everything else
};

/// Of the tensors that require a gradient, for sequences of `seq_len` tokens: a frozen matrix has no weight gradient,
/// and no gradient is computed below the lowest trained tensor.
StepCost step_cost(const model::Decoder& decoder, std::int64_t lowest_layer, std::int64_t seq_len);

/// What results and speed depend on beside the code: processor or GPU, threads, instruction set, type, torch.
std::string describe_compute(at::ScalarType dtype, at::Device device);

/// Floating point operations per second of a large matrix product on `device` with the threads of this process. It is
/// measured where `file` does not know it (about half a second), and written there; a file that cannot be read or
/// written is left alone.
double matmul_rate(at::ScalarType dtype, at::Device device, const std::filesystem::path& file);

/// Keeps a higher rate in `file` for later runs; what is there and higher stays.
void keep_matmul_rate(double rate, at::ScalarType dtype, at::Device device, const std::filesystem::path& file);

/// matmul_rates.json in $XDG_CACHE_HOME/adept, or ~/.cache/adept.
std::filesystem::path matmul_rate_file();

}  // namespace adept::train
