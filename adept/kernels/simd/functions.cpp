#include "adept/kernels/functions.h"

#include "adept/kernels/simd/functions.h"

namespace adept::kernels::ADEPT_INSTRUCTION_SET {

extern const Functions kFunctions;
const Functions kFunctions = {
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .matmul = matmul,
    .add = add,
    .square_sums = square_sums,
    .rms_norm_forward = rms_norm_forward,
    .rms_norm_backward = rms_norm_backward,
    .rope = rope,
    .gate_forward = gate_forward,
    .gate_backward = gate_backward,
    .cross_entropy = cross_entropy,
    .online_softmax = online_softmax,
};

}  // namespace adept::kernels::ADEPT_INSTRUCTION_SET
