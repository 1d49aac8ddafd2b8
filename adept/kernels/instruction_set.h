// Which instructions the kernels of this folder use: the best that the processor has, decided at run time.
#pragma once

#include <string_view>

namespace adept::kernels {

/// Each is a compilation of simd/*.cpp. kEmulatedBf16 does in plain instructions what kAvx512Bf16 does with those that
/// multiply pairs of bf16 numbers, slowly: for tests on any processor.
enum class InstructionSet { kGeneric, kEmulatedBf16, kAvx2, kAvx512, kAvx512Bf16 };

/// "generic", "emulated_bf16", "avx2", "avx512", "avx512_bf16".
std::string_view to_string(InstructionSet set);

/// Whether this processor and operating system can run it.
bool is_supported(InstructionSet set);

/// The best one that the processor is fast with, or what $ADEPT_INSTRUCTION_SET names. Decided at the first call.
/// Throws ConfigError for an unknown name, and for a set that this processor lacks.
InstructionSet instruction_set();

/// Whether $ADEPT_INSTRUCTION_SET names one.
bool instruction_set_was_chosen();

/// Whether products in bf16 run at full rate: in the processor, or in the set that was chosen.
bool multiplies_bf16();

}  // namespace adept::kernels
