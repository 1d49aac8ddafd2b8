// How fast this machine multiplies matrices: the "light" of the share SOL that a training line shows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>

namespace adept::train {

/// Floating point operations per second of a large matrix product on `device` with the threads of this process: the
/// highest that was ever seen, as other work on the machine only makes a product slower. `file` keeps it. It is
/// measured where the file does not know it, and again an hour after the last time, so that what was measured in a busy
/// moment does not stay. A file that cannot be read or written is left alone.
double matmul_rate(at::ScalarType dtype, at::Device device, const std::filesystem::path& file);

/// Measures now, for half a second to three, and returns the highest rate, as above.
double measure_matmul_rate(at::ScalarType dtype, at::Device device, const std::filesystem::path& file);

/// Keeps a higher rate in `file` for later runs; what is there and higher stays.
void keep_matmul_rate(double rate, at::ScalarType dtype, at::Device device, const std::filesystem::path& file);

/// matmul_rates.json in $XDG_CACHE_HOME/adept, or ~/.cache/adept.
std::filesystem::path matmul_rate_file();

namespace detail {
/// The shortest of repeated trials, each of which returns the seconds that it took: repeated until the best two agree
/// within 2 %, or for `most` seconds.
double shortest_time(const std::function<double()>& trial, double most);
}  // namespace detail

}  // namespace adept::train
