// Describes the hardware and libraries of this machine.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace adept::train {

/// Everything besides the code that affects results and speed: processor or GPU, threads, instruction set, dtype,
/// torch.
std::string describe_compute(at::ScalarType dtype, at::Device device);

}  // namespace adept::train
