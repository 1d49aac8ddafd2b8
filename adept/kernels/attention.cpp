#include "adept/kernels/attention.h"

#include "adept/kernels/attention_blocks.h"
#include "adept/kernels/instruction_set.h"

namespace adept::kernels {

// One for each compilation of simd/attention.cpp.
#define ADEPT_DECLARE(set)                                                       \
  namespace set {                                                                \
  void attention_forward(const Attention&, std::int64_t, std::int64_t, float*);  \
  void attention_backward(const Attention&, std::int64_t, std::int64_t, float*); \
  }
ADEPT_DECLARE(generic)
#ifdef ADEPT_HAS_AVX2
ADEPT_DECLARE(avx2)
ADEPT_DECLARE(avx512)
#endif
#undef ADEPT_DECLARE

std::int64_t num_units(const Attention& a) { return a.batch * a.num_key_value_heads * a.num_parts; }

std::int64_t forward_workspace(const Attention& a) { return ForwardWorkspace::size(a); }
std::int64_t backward_workspace(const Attention& a) { return BackwardWorkspace::size(a); }

void attention_forward(const Attention& a, std::int64_t begin, std::int64_t end, float* workspace) {
  switch (instruction_set()) {
#ifdef ADEPT_HAS_AVX2
    case InstructionSet::kAvx512:
      return avx512::attention_forward(a, begin, end, workspace);
    case InstructionSet::kAvx2:
      return avx2::attention_forward(a, begin, end, workspace);
#endif
    default:
      return generic::attention_forward(a, begin, end, workspace);
  }
}

void attention_backward(const Attention& a, std::int64_t begin, std::int64_t end, float* workspace) {
  switch (instruction_set()) {
#ifdef ADEPT_HAS_AVX2
    case InstructionSet::kAvx512:
      return avx512::attention_backward(a, begin, end, workspace);
    case InstructionSet::kAvx2:
      return avx2::attention_backward(a, begin, end, workspace);
#endif
    default:
      return generic::attention_backward(a, begin, end, workspace);
  }
}

}  // namespace adept::kernels
