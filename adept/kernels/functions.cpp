#include "adept/kernels/functions.h"

#include "adept/kernels/instruction_set.h"

namespace adept::kernels {

// One for each compilation of simd/functions.cpp.
namespace generic {
extern const Functions kFunctions;
}
namespace emulated_bf16 {
extern const Functions kFunctions;
}
#ifdef ADEPT_X86
namespace avx2 {
extern const Functions kFunctions;
}
namespace avx512 {
extern const Functions kFunctions;
}
namespace avx512_bf16 {
extern const Functions kFunctions;
}
#endif

const Functions& functions() {
  switch (instruction_set()) {
#ifdef ADEPT_X86
    case InstructionSet::kAvx512Bf16:
      return avx512_bf16::kFunctions;
    case InstructionSet::kAvx512:
      return avx512::kFunctions;
    case InstructionSet::kAvx2:
      return avx2::kFunctions;
#endif
    case InstructionSet::kEmulatedBf16:
      return emulated_bf16::kFunctions;
    default:
      return generic::kFunctions;
  }
}

}  // namespace adept::kernels
