// Converts the compute options to torch's types, and describes the hardware and software that results depend on.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "adept/config/run_config.h"
#include "adept/model/load.h"

namespace adept::train {

at::Device to_device(config::Device device);

/// Options for loading a model with these compute options. The dtype must not be `auto`.
model::LoadOptions load_options(const config::Compute& compute);

/// What results and speed depend on beside the code: processor or GPU, threads, instruction set, type, torch.
std::string describe_compute(at::ScalarType dtype, at::Device device);

}  // namespace adept::train
