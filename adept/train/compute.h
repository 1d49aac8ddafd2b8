// What the configuration says of how to compute, for torch; and what this machine computes with, in words.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "adept/config/run_config.h"
#include "adept/model/load.h"

namespace adept::train {

at::Device to_device(config::Device device);

/// Of a model to compute with so; the dtype must be decided.
model::LoadOptions load_options(const config::Compute& compute);

/// What results and speed depend on beside the code: processor or GPU, threads, instruction set, type, torch.
std::string describe_compute(at::ScalarType dtype, at::Device device);

}  // namespace adept::train
