#include "adept/kernels/instruction_set.h"

#include <array>
#include <cstdlib>
#include <string>

#include "adept/core/cpu.h"
#include "adept/core/error.h"

namespace adept::kernels {
namespace {

// The best first.
constexpr std::array kAll = {InstructionSet::kAvx512Bf16, InstructionSet::kAvx512, InstructionSet::kAvx2,
                             InstructionSet::kGeneric, InstructionSet::kEmulatedBf16};

std::string_view chosen_name() {
  const char* name = std::getenv("ADEPT_INSTRUCTION_SET");
  return name == nullptr ? "" : name;
}

// Pairs are for AMD's cores: Zen 4 does 64 bf16 or 32 fp32 operations per clock. On Intel's, attention in bf16 was 0.7
// times as fast with them as with single numbers (Emerald Rapids).
bool is_worth_it(InstructionSet set) {
#ifdef ADEPT_X86
  return set != InstructionSet::kAvx512Bf16 || __builtin_cpu_is("amd");
#else
  return set != InstructionSet::kAvx512Bf16;
#endif
}

InstructionSet decide() {
  std::string supported;
  for (const InstructionSet set : kAll)
    if (is_supported(set)) supported.append(supported.empty() ? "" : ", ").append(to_string(set));
  if (const std::string_view wanted = chosen_name(); !wanted.empty()) {
    for (const InstructionSet set : kAll)
      if (to_string(set) == wanted && is_supported(set)) return set;
    throw ConfigError("ADEPT_INSTRUCTION_SET: found \"{}\"; expected one that this processor has: {}.", wanted,
                      supported);
  }
  for (const InstructionSet set : kAll)
    if (is_supported(set) && is_worth_it(set)) return set;
  return InstructionSet::kGeneric;
}

}  // namespace

std::string_view to_string(InstructionSet set) {
  switch (set) {
    case InstructionSet::kGeneric:
      return "generic";
    case InstructionSet::kEmulatedBf16:
      return "emulated_bf16";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx512Bf16:
      return "avx512_bf16";
  }
  throw InternalError("unknown instruction set");
}

bool is_supported(InstructionSet set) {
  switch (set) {
    case InstructionSet::kGeneric:
    case InstructionSet::kEmulatedBf16:
      return true;
#ifdef ADEPT_X86  // the compiler's function looks at what the operating system saves, too
    case InstructionSet::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case InstructionSet::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case InstructionSet::kAvx512Bf16:
      return is_supported(InstructionSet::kAvx512) && __builtin_cpu_supports("avx512bf16");
#endif
    default:
      return false;
  }
}

bool instruction_set_was_chosen() { return !chosen_name().empty(); }

bool multiplies_bf16() {
  return instruction_set_was_chosen() ? instruction_set() == InstructionSet::kAvx512Bf16 : cpu_has_native_bf16();
}

InstructionSet instruction_set() {
  static const InstructionSet chosen = decide();
  return chosen;
}

}  // namespace adept::kernels
