#include "adept/model/gguf/tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>

#include "adept/core/error.h"
#include "adept/io/text_quote.h"
#include "adept/model/weights.h"

namespace adept::model {
namespace {

using io::quote;

// IEEE 754 binary16, round to nearest even; beyond the range becomes infinite.
std::uint16_t to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const float magnitude = std::abs(value);
  if (magnitude < 0x1p-14f) {  // subnormal or zero: multiples of 2^-24, rounded by the hardware
    const float steps = std::nearbyint(magnitude * 0x1p24f);
    return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(steps));
  }
  std::uint32_t rebased = (bits & 0x7fffffffu) - ((127u - 15u) << 23);
  rebased += 0xfffu + (rebased >> 13 & 1u);
  if (rebased >= 0x1fu << 23) return static_cast<std::uint16_t>(sign | 0x7c00u);
  return static_cast<std::uint16_t>(sign | rebased >> 13);
}

std::uint16_t to_bfloat16(float value) {
  auto bits = std::bit_cast<std::uint32_t>(value);
  bits += 0x7fffu + (bits >> 16 & 1u);
  return static_cast<std::uint16_t>(bits >> 16);
}

// Row (head, pair, half) becomes row (head, half, pair): the inverse of `permute` in convert_hf_to_gguf.py.
std::vector<float> restore_row_order(const std::vector<float>& values, std::int64_t rows, std::int64_t heads) {
  const std::size_t row_size = values.size() / static_cast<std::size_t>(rows);
  const std::int64_t head_dim = rows / heads;
  std::vector<float> result(values.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t within = row % head_dim;
    const std::int64_t target = row - within + within % 2 * (head_dim / 2) + within / 2;
    std::copy_n(values.begin() + row * static_cast<std::int64_t>(row_size), row_size,
                result.begin() + target * static_cast<std::int64_t>(row_size));
  }
  return result;
}

}  // namespace

std::vector<GgufTensorPlan> plan_gguf_tensors(const io::GgufFile& file, const GgufModel& model) {
  std::vector<std::string> problems;
  std::vector<GgufTensorPlan> plan;
  std::set<std::string, std::less<>> used = {"rope_freqs.weight"};  // a part of the config
  if (std::ranges::any_of(model.parsed.ropes, [](const auto& rope) { return rope.type == nn::RopeType::kLongRope; }))
    for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) used.insert(name);
  Weights slots;
  for (Parameter& p : named_parameters(model.parsed, slots)) {
    const io::GgufTensor* tensor = file.find(p.gguf_name);
    if (!tensor) {
      problems.push_back(fmt::format("has no tensor {}, which {} needs", quote(p.gguf_name), model.model_type));
      continue;
    }
    if (tensor->shape != p.shape)
      problems.push_back(fmt::format("tensor {} is {}; the metadata asks for [{}]", quote(p.gguf_name),
                                     describe(*tensor), fmt::join(p.shape, ", ")));
    used.insert(std::move(p.gguf_name));
    plan.push_back({tensor, std::move(p.name), p.gguf_heads, p.offset});
  }
  for (const io::GgufTensor& tensor : file.tensors())
    if (!used.contains(tensor.name))
      problems.push_back(fmt::format("tensor {}, {}, is not a tensor of {}; ignoring it would change the model",
                                     quote(tensor.name), describe(tensor), model.model_type));
  throw_gguf_problems(file.where(), problems);
  return plan;
}

std::string convert_gguf_tensor(const GgufTensorPlan& plan, DType dtype, std::span<std::byte> out) {
  const io::GgufTensor& tensor = *plan.source;
  std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
  ADEPT_CHECK(out.size() == values.size() * dtype_size(dtype), "{}: room for {} bytes", plan.name, out.size());
  io::dequantize(tensor, values);
  if (const auto bad = std::ranges::find_if_not(values, [](float value) { return std::isfinite(value); });
      bad != values.end())
    return fmt::format("tensor {}, {}, has the value {} at element {}", quote(tensor.name), describe(tensor), *bad,
                       bad - values.begin());
  if (plan.interleaved_heads > 0) values = restore_row_order(values, tensor.shape[0], plan.interleaved_heads);
  if (plan.offset != 0)
    for (float& value : values) value -= static_cast<float>(plan.offset);
  if (dtype == DType::kF32) {
    std::memcpy(out.data(), values.data(), out.size());
    return {};
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t narrow = dtype == DType::kBF16 ? to_bfloat16(values[i]) : to_half(values[i]);
    if (dtype == DType::kF16 && (narrow & 0x7c00u) == 0x7c00u)
      return fmt::format("tensor {} has the value {}, beyond the range of fp16; use fp32 or bf16", quote(tensor.name),
                         values[i]);
    if (dtype == DType::kBF16 && (narrow & 0x7f80u) == 0x7f80u)
      return fmt::format("tensor {} has the value {}, beyond the range of bf16; use fp32", quote(tensor.name),
                         values[i]);
    std::memcpy(out.data() + i * sizeof narrow, &narrow, sizeof narrow);
  }
  return {};
}

}  // namespace adept::model
