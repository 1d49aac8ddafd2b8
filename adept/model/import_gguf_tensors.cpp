// Legend: D hidden_size, H heads, K key-value heads, E head_dim, F intermediate_size, V vocabulary.
#include "adept/model/import_gguf_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>

#include "adept/core/error.h"
#include "adept/io/text_quote.h"

namespace adept::model {
namespace {

using io::quote;

// A row of the name table: a tensor that the architecture has.
struct Rule {
  std::string gguf_name;
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t interleaved_heads = 0;
};

void add_layer_rules(const GgufModel& model, std::int64_t layer, std::vector<Rule>& rules) {
  const auto add = [&](std::string_view gguf, std::string_view name, std::vector<std::int64_t> shape,
                       std::int64_t interleaved_heads = 0) {
    rules.push_back({fmt::format("blk.{}.{}", layer, gguf), fmt::format("model.layers.{}.{}", layer, name),
                     std::move(shape), interleaved_heads});
  };
  const auto add_linear = [&](std::string_view gguf, std::string_view name, std::int64_t rows, std::int64_t columns,
                              bool bias, std::int64_t interleaved_heads = 0) {
    add(fmt::format("{}.weight", gguf), fmt::format("{}.weight", name), {rows, columns}, interleaved_heads);
    if (bias) add(fmt::format("{}.bias", gguf), fmt::format("{}.bias", name), {rows}, interleaved_heads);
  };
  const std::int64_t d = model.hidden_size;
  const std::int64_t f = model.intermediate_size;
  const std::int64_t q_rows = model.num_heads * model.head_dim;
  const std::int64_t kv_rows = model.num_kv_heads * model.head_dim;
  add("attn_norm.weight", "input_layernorm.weight", {d});
  add_linear("attn_q", "self_attn.q_proj", q_rows, d, model.qkv_bias, model.permuted ? model.num_heads : 0);
  add_linear("attn_k", "self_attn.k_proj", kv_rows, d, model.qkv_bias, model.permuted ? model.num_kv_heads : 0);
  add_linear("attn_v", "self_attn.v_proj", kv_rows, d, model.qkv_bias);
  add_linear("attn_output", "self_attn.o_proj", d, q_rows, model.o_bias);
  if (model.qk_norm) {
    add("attn_q_norm.weight", "self_attn.q_norm.weight", {model.head_dim});
    add("attn_k_norm.weight", "self_attn.k_norm.weight", {model.head_dim});
  }
  add("ffn_norm.weight", "post_attention_layernorm.weight", {d});
  add_linear("ffn_gate", "mlp.gate_proj", f, d, model.mlp_bias);
  add_linear("ffn_up", "mlp.up_proj", f, d, model.mlp_bias);
  add_linear("ffn_down", "mlp.down_proj", d, f, model.mlp_bias);
}

std::vector<Rule> all_rules(const GgufModel& model) {
  std::vector<Rule> rules;
  rules.push_back({"token_embd.weight", "model.embed_tokens.weight", {model.vocab_size, model.hidden_size}});
  for (std::int64_t layer = 0; layer < model.num_layers; ++layer) add_layer_rules(model, layer, rules);
  rules.push_back({"output_norm.weight", "model.norm.weight", {model.hidden_size}});
  if (!model.tied) rules.push_back({"output.weight", "lm_head.weight", {model.vocab_size, model.hidden_size}});
  return rules;
}

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
  for (Rule& rule : all_rules(model)) {
    const io::GgufTensor* tensor = file.find(rule.gguf_name);
    if (!tensor) {
      problems.push_back(fmt::format("has no tensor {}, which {} needs", quote(rule.gguf_name), model.model_type));
      continue;
    }
    used.insert(rule.gguf_name);
    if (tensor->shape != rule.shape)
      problems.push_back(fmt::format("tensor {} is {}; the metadata asks for [{}]", quote(rule.gguf_name),
                                     describe(*tensor), fmt::join(rule.shape, ", ")));
    plan.push_back({tensor, std::move(rule.name), rule.interleaved_heads});
  }
  for (const io::GgufTensor& tensor : file.tensors())
    if (!used.contains(tensor.name))
      problems.push_back(fmt::format("tensor {}, {}, is none that {} has here; leaving it out would change the model",
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
