// What this machine computes with, in words.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace adept::train {

/// What results and speed depend on beside the code: processor or GPU, threads, instruction set, type, torch.
std::string describe_compute(at::ScalarType dtype, at::Device device);

}  // namespace adept::train
