// Choices of the configuration that belong to no single folder, with their spellings. Those of a folder are in its
// options.h.
#pragma once

#include "adept/core/choices.h"
#include "adept/core/dtype.h"

namespace adept::config {

enum class DTypeChoice { kAuto, kFp32, kBf16 };
enum class Device { kCpu, kCuda };
enum class EvalRole { kGeneral, kDomain, kOther };

using adept::choices_of;
using adept::from_string;
using adept::kChoices;
using adept::to_string;  // in addition to those of this folder

}  // namespace adept::config

namespace adept {

template <>
inline constexpr std::array kChoices<config::DTypeChoice> = {Choice{config::DTypeChoice::kAuto, "auto"},
                                                             Choice{config::DTypeChoice::kFp32, "fp32"},
                                                             Choice{config::DTypeChoice::kBf16, "bf16"}};
template <>
inline constexpr std::array kChoices<config::Device> = {Choice{config::Device::kCpu, "cpu"},
                                                        Choice{config::Device::kCuda, "cuda"}};
template <>
inline constexpr std::array kChoices<config::EvalRole> = {Choice{config::EvalRole::kGeneral, "general"},
                                                          Choice{config::EvalRole::kDomain, "domain"},
                                                          Choice{config::EvalRole::kOther, "other"}};

/// As torch and Hugging Face spell them.
template <>
inline std::string_view canonical_spelling<config::DTypeChoice>(std::string_view name) {
  const auto dtype = compute_dtype_from_string(name);
  return dtype ? to_string(*dtype) : name;
}

}  // namespace adept
