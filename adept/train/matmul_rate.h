// The rate of matrix products on this machine: the speed of light (SOL) to which training lines refer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>

namespace adept::train {

/// Floating point operations per second of a large matrix product on `device` with the threads of this process: the
/// highest rate ever measured, because other load only makes a product slower. `file` stores it. It is measured if the
/// file lacks it, and again an hour after the last measurement, so a low value from a busy moment does not last. A file
/// that cannot be read or written is ignored.
double matmul_rate(at::ScalarType dtype, at::Device device, const std::filesystem::path& file);

/// Measures now, for half a second to three, and returns the highest rate, as above.
double measure_matmul_rate(at::ScalarType dtype, at::Device device, const std::filesystem::path& file);

/// Stores a rate in `file` for later runs, unless the stored rate is higher.
void keep_matmul_rate(double rate, at::ScalarType dtype, at::Device device, const std::filesystem::path& file);

/// matmul_rates.json in $XDG_CACHE_HOME/adept, or ~/.cache/adept.
std::filesystem::path matmul_rate_file();

namespace detail {
/// The shortest of repeated trials, each of which returns the seconds that it took: at least four, then until the best
/// two agree within 2 %, or `most` seconds in all are over.
double shortest_time(const std::function<double()>& trial, double most);
}  // namespace detail

}  // namespace adept::train
