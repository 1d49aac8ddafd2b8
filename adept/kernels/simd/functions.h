// The kernels of the instruction set that the including file is compiled for.
#pragma once

#include "adept/kernels/attention.h"
#include "adept/kernels/matmul.h"
#include "adept/kernels/rows.h"

namespace adept::kernels::ADEPT_INSTRUCTION_SET {

void attention_forward(const Attention& a, std::int64_t begin, std::int64_t end, float* workspace);
void attention_backward(const Attention& a, std::int64_t begin, std::int64_t end, float* workspace);
void matmul(const Matmul& m, std::int64_t begin, std::int64_t end, float* workspace);
void add(const Addition& a, std::int64_t begin, std::int64_t end);
void square_sums(const SquareSums& a, std::int64_t begin, std::int64_t end);
void rms_norm_forward(const RmsNorm& a, std::int64_t begin, std::int64_t end);
void rms_norm_backward(const RmsNorm& a, std::int64_t begin, std::int64_t end, float* grad_weight);
void rope(const Rope& a, std::int64_t begin, std::int64_t end);
void gate_forward(const Gate& a, std::int64_t begin, std::int64_t end);
void gate_backward(const Gate& a, std::int64_t begin, std::int64_t end);
void cross_entropy(const CrossEntropy& a, std::int64_t begin, std::int64_t end);
void online_softmax(const OnlineSoftmax& a, std::int64_t begin, std::int64_t end);

}  // namespace adept::kernels::ADEPT_INSTRUCTION_SET
