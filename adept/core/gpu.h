// The graphics processor, as the system lists it.
#pragma once

#include <filesystem>
#include <string>

namespace adept {

/// The first GPU that NVIDIA's driver lists, "NVIDIA H100 80GB HBM3", or "unknown GPU".
std::string gpu_model_name();

namespace detail {
/// The same, from /proc below `root`.
std::string gpu_model_name(const std::filesystem::path& root);
}  // namespace detail

}  // namespace adept
