#include "adept/train/compute.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include "adept/core/cpu.h"
#include "adept/core/gpu.h"
#include "adept/core/version_info.h"
#include "adept/kernels/instruction_set.h"
#include "adept/model/torch_tensors.h"
#include "adept/nn/matmul.h"

namespace adept::train {

at::Device to_device(config::Device device) { return device == config::Device::kCuda ? at::kCUDA : at::kCPU; }

model::LoadOptions load_options(const config::Compute& compute) {
  return {.dtype = model::to_scalar_type(compute.decided_dtype()), .device = to_device(compute.device)};
}

std::string describe_compute(at::ScalarType dtype, at::Device device) {
  const bool own_products = nn::has_matmul_kernel(at::empty({0}, at::TensorOptions(dtype).device(device)));
  return fmt::format("{}, {} threads, {}{}, {}, torch {}", device.is_cpu() ? cpu_model_name() : gpu_model_name(),
                     at::get_num_threads(), kernels::to_string(kernels::instruction_set()),
                     own_products ? " products" : "", at::toString(dtype), kTorchVersion);
}

}  // namespace adept::train
