// The configuration's choices, each with its spelling: one table per enum serves YAML, --set, options and help.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "adept/core/dtype.h"

namespace adept::config {

enum class DTypeChoice { kAuto, kFp32, kBf16 };
enum class Device { kCpu, kCuda };
enum class Kernels { kFused, kReference };
enum class ExportDType { kAuto, kFp32, kBf16 };
enum class Method { kAdept, kFull, kReplay, kLlamaPro, kLora, kTopKLayers };
enum class TxtRecord { kFile, kLine, kParagraph };
enum class BadRecord { kFail, kSkip };
enum class EvalRole { kGeneral, kDomain, kOther };
enum class ProbeMethod { kMaskOut, kCumulative, kRankAggregation, kFisher, kBlockInfluence, kTaylorGate };
enum class SelectionStrategy { kLowest, kCostAware, kUniform, kHighest, kGainPerCost, kManual };
enum class LrScheduler { kConstant, kLinear, kCosine, kWsd };
enum class ActivationCheckpointing { kNone, kSelective, kFull };
enum class UnitLrPolicy { kReference, kUniform, kNormalized };

template <typename Enum>
struct Choice {
  Enum value;
  std::string_view name;
};

/// All choices of an enum, in the order of the help. Specialised for each.
template <typename Enum>
inline constexpr std::array<Choice<Enum>, 0> kChoices{};

template <>
inline constexpr std::array kChoices<DTypeChoice> = {
    Choice{DTypeChoice::kAuto, "auto"}, Choice{DTypeChoice::kFp32, "fp32"}, Choice{DTypeChoice::kBf16, "bf16"}};
template <>
inline constexpr std::array kChoices<Device> = {Choice{Device::kCpu, "cpu"}, Choice{Device::kCuda, "cuda"}};
template <>
inline constexpr std::array kChoices<Kernels> = {Choice{Kernels::kFused, "fused"},
                                                 Choice{Kernels::kReference, "reference"}};
template <>
inline constexpr std::array kChoices<ExportDType> = {
    Choice{ExportDType::kAuto, "auto"}, Choice{ExportDType::kFp32, "fp32"}, Choice{ExportDType::kBf16, "bf16"}};
template <>
inline constexpr std::array kChoices<Method> = {
    Choice{Method::kAdept, "adept"},        Choice{Method::kFull, "full"}, Choice{Method::kReplay, "replay"},
    Choice{Method::kLlamaPro, "llama_pro"}, Choice{Method::kLora, "lora"}, Choice{Method::kTopKLayers, "top_k_layers"}};
template <>
inline constexpr std::array kChoices<TxtRecord> = {Choice{TxtRecord::kFile, "file"}, Choice{TxtRecord::kLine, "line"},
                                                   Choice{TxtRecord::kParagraph, "paragraph"}};
template <>
inline constexpr std::array kChoices<BadRecord> = {Choice{BadRecord::kFail, "fail"}, Choice{BadRecord::kSkip, "skip"}};
template <>
inline constexpr std::array kChoices<EvalRole> = {
    Choice{EvalRole::kGeneral, "general"}, Choice{EvalRole::kDomain, "domain"}, Choice{EvalRole::kOther, "other"}};
template <>
inline constexpr std::array kChoices<ProbeMethod> = {Choice{ProbeMethod::kMaskOut, "mask_out"},
                                                     Choice{ProbeMethod::kCumulative, "cumulative"},
                                                     Choice{ProbeMethod::kRankAggregation, "rank_aggregation"},
                                                     Choice{ProbeMethod::kFisher, "fisher"},
                                                     Choice{ProbeMethod::kBlockInfluence, "block_influence"},
                                                     Choice{ProbeMethod::kTaylorGate, "taylor_gate"}};
template <>
inline constexpr std::array kChoices<SelectionStrategy> = {Choice{SelectionStrategy::kLowest, "lowest"},
                                                           Choice{SelectionStrategy::kCostAware, "cost_aware"},
                                                           Choice{SelectionStrategy::kUniform, "uniform"},
                                                           Choice{SelectionStrategy::kHighest, "highest"},
                                                           Choice{SelectionStrategy::kGainPerCost, "gain_per_cost"},
                                                           Choice{SelectionStrategy::kManual, "manual"}};
template <>
inline constexpr std::array kChoices<LrScheduler> = {
    Choice{LrScheduler::kConstant, "constant"}, Choice{LrScheduler::kLinear, "linear"},
    Choice{LrScheduler::kCosine, "cosine"}, Choice{LrScheduler::kWsd, "wsd"}};
template <>
inline constexpr std::array kChoices<ActivationCheckpointing> = {
    Choice{ActivationCheckpointing::kNone, "none"}, Choice{ActivationCheckpointing::kSelective, "selective"},
    Choice{ActivationCheckpointing::kFull, "full"}};
template <>
inline constexpr std::array kChoices<UnitLrPolicy> = {Choice{UnitLrPolicy::kReference, "reference"},
                                                      Choice{UnitLrPolicy::kUniform, "uniform"},
                                                      Choice{UnitLrPolicy::kNormalized, "normalized"}};

/// The spelling of a choice.
template <typename Enum>
std::string_view to_string(Enum value) {
  for (const auto& choice : kChoices<Enum>)
    if (choice.value == value) return choice.name;
  return "?";
}

/// The choice that is spelt `name`; nothing for an unknown one. Also takes float32 and bfloat16.
template <typename Enum>
std::optional<Enum> from_string(std::string_view name) {
  if constexpr (std::is_same_v<Enum, DTypeChoice>)
    if (const auto dtype = compute_dtype_from_string(name)) name = to_string(*dtype);
  for (const auto& choice : kChoices<Enum>)
    if (choice.name == name) return choice.value;
  return std::nullopt;
}

/// All spellings: "constant|linear|cosine|wsd", or with ", " and " or ": "constant, linear, cosine or wsd".
template <typename Enum>
std::string choices_of(std::string_view separator = "|", std::string_view last_separator = "|") {
  std::string all;
  for (const auto& choice : kChoices<Enum>) {
    const bool last = choice.value == kChoices<Enum>.back().value;
    all.append(all.empty() ? std::string_view() : last ? last_separator : separator).append(choice.name);
  }
  return all;
}

}  // namespace adept::config
