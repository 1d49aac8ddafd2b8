// Attention on the paths that a GPU takes.
#include "adept/nn/attention.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "adept/nn/block_attention.h"
#include "adept/nn/reference.h"
#include "tests/support/stand_in_device.h"
#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

constexpr double kRounding = 0.02;  // of results and gradients in bf16
constexpr double kFp32Rounding = 1e-4;

struct Heads {
  at::Tensor q, k, v, out;
};

/// Attention and the gradients of its sum times `weights`, from inputs that are laid out as projections leave them.
template <typename Function>
Heads differentiated(const Heads& of, at::Device device, at::ScalarType type, const at::Tensor& weights,
                     const Function& attention) {
  const auto leaf = [&](const at::Tensor& heads) {
    return heads.to(type).to(device).transpose(1, 2).contiguous().detach().requires_grad_();
  };
  const Heads x = {leaf(of.q), leaf(of.k), leaf(of.v), {}};
  const at::Tensor out = attention(x.q.transpose(1, 2), x.k.transpose(1, 2), x.v.transpose(1, 2));
  (out * weights.to(type).to(device)).sum().backward();
  const auto on_cpu = [](const at::Tensor& t) { return t.detach().cpu().to(at::kFloat); };
  return {on_cpu(x.q.grad()), on_cpu(x.k.grad()), on_cpu(x.v.grad()), on_cpu(out)};
}

struct AttentionCase {
  std::string name;
  std::int64_t heads = 4, kv_heads = 2, head_dim = 8;
  Visibility visibility{};
  Scoring scoring{};
};

std::vector<AttentionCase> attention_cases() {
  const at::Tensor starts =
      at::tensor({0, 0, 0, 3, 3, 3, 3, 7, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}, at::kInt).view({2, 10});
  return {{.name = "causal"},
          {.name = "documents", .visibility = {.document_starts = starts}},
          {.name = "window", .visibility = {.window = 3}},
          {.name = "both", .kv_heads = 4, .visibility = {.window = 2, .document_starts = starts}},
          {.name = "a head_dim that is padded", .head_dim = 6, .visibility = {.document_starts = starts}},
          {.name = "scale", .visibility = {.window = 4}, .scoring = {.scale = 0.7}},
          {.name = "bounds that are known",
           .visibility = {.document_starts = starts, .document_bounds = document_bounds(starts, test::kStandIn)}}};
}

TEST(FlashAttention, SeesTheDocumentAndTheWindowOfEachQuery) {
  for (const AttentionCase& c : attention_cases()) {
    SCOPED_TRACE(c.name);
    at::manual_seed(3);
    const auto rounded = [&](std::int64_t heads) {
      return at::randn({2, heads, 10, c.head_dim}).to(at::kBFloat16).to(at::kFloat);
    };
    const Heads x = {rounded(c.heads), rounded(c.kv_heads), rounded(c.kv_heads), {}};
    const at::Tensor weights = rounded(c.heads);
    test::reset_synchronizations();
    const Heads found = differentiated(x, test::kStandIn, at::kBFloat16, weights, [&](const auto&... heads) {
      return causal_attention(heads..., c.visibility, c.scoring);
    });
    EXPECT_EQ(test::calls_on_device("_flash_attention_forward"), 1);
    EXPECT_EQ(test::calls_on_device("_flash_attention_backward"), 1);
    const Heads expected = differentiated(x, at::kCPU, at::kFloat, weights, [&](const auto&... heads) {
      return reference::causal_attention(heads..., c.visibility, c.scoring);
    });
    EXPECT_TRUE(test::is_close(found.out, expected.out, kRounding));
    EXPECT_TRUE(test::is_close(found.q, expected.q, kRounding));
    EXPECT_TRUE(test::is_close(found.k, expected.k, kRounding));
    EXPECT_TRUE(test::is_close(found.v, expected.v, kRounding));
  }
}

TEST(FlashAttention, IsLaidOutAsTheProjectionReadsIt) {
  const at::Tensor heads =
      at::randn({2, 5, 4, 8}).to(at::kBFloat16).to(test::kStandIn).transpose(1, 2);  // (B, H, T, E)
  const at::Tensor out = causal_attention(heads, heads, heads, {.window = 2});
  EXPECT_TRUE(out.transpose(1, 2).is_contiguous());
}

TEST(FlashAttention, LeavesToOthersWhatItCannotDo) {
  const at::Tensor half = at::randn({1, 2, 5, 8}).to(at::kBFloat16), here = half.to(test::kStandIn);
  EXPECT_TRUE(has_flash_attention(here, here, here, {}));
  EXPECT_FALSE(has_flash_attention(half, half, half, {})) << "on the processor";
  EXPECT_FALSE(has_flash_attention(here, here, here, {.soft_cap = 2}));
  const at::Tensor query = here.narrow(2, 4, 1), wide = here.to(at::kFloat);
  EXPECT_FALSE(has_flash_attention(query, here, here, {})) << "fewer queries than keys";
  EXPECT_FALSE(has_flash_attention(wide, wide, wide, {})) << "fp32";
}

/// The most elements that a row of a result has, of operations on tensors with rows of queries.
class LargestResult {
 public:
  LargestResult()
      : handle_(at::addGlobalCallback(
            at::RecordFunctionCallback(start, look).needsOutputs(true).scopes({at::RecordScope::FUNCTION}))) {
    elements = 0;
  }
  ~LargestResult() { at::removeCallback(handle_); }
  LargestResult(const LargestResult&) = delete;
  LargestResult& operator=(const LargestResult&) = delete;

  std::int64_t found() const { return elements; }

 private:
  static inline std::atomic<std::int64_t> elements = 0;
  static std::unique_ptr<at::ObserverContext> start(const at::RecordFunction&) { return nullptr; }
  static void look(const at::RecordFunction& function, at::ObserverContext*) {
    for (const c10::IValue& output : function.outputs())
      if (output.isTensor() && output.toTensor().defined())
        elements = std::max(elements.load(), output.toTensor().numel());
  }

  at::CallbackHandle handle_;
};

TEST(BlockAttention, ComputesWithoutScoresOfEveryQueryAndKey) {
  constexpr std::int64_t kTokens = 3 * kBlockQueries + 7, kHeads = 4, kHeadDim = 8;
  at::Tensor starts = at::zeros({2, kTokens}, at::kInt);
  for (const std::int64_t start : {std::int64_t{5}, kBlockQueries + 1, kTokens - 2})
    starts[0].narrow(0, start, kTokens - start).fill_(start);
  const std::vector<AttentionCase> cases = {
      {.name = "documents", .visibility = {.document_starts = starts}},
      {.name = "window", .visibility = {.window = 100}},
      {.name = "both", .kv_heads = 4, .visibility = {.window = 300, .document_starts = starts}},
      {.name = "soft cap", .scoring = {.scale = 0.4, .soft_cap = 2}},
      {.name = "all", .visibility = {.window = 90, .document_starts = starts}, .scoring = {.soft_cap = 3}},
      {.name = "grouped", .kv_heads = 1}};
  for (const AttentionCase& c : cases) {
    SCOPED_TRACE(c.name);
    at::manual_seed(4);
    const auto random = [&](std::int64_t heads) { return at::randn({2, heads, kTokens, kHeadDim}); };
    const Heads x = {random(kHeads), random(c.kv_heads), random(c.kv_heads), {}};
    const at::Tensor weights = random(kHeads);
    Heads found;
    {
      const LargestResult largest;
      found = differentiated(x, test::kStandIn, at::kFloat, weights,
                             [&](const auto&... heads) { return causal_attention(heads..., c.visibility, c.scoring); });
      EXPECT_LE(largest.found(), 2 * kHeads * kBlockQueries * kTokens);
    }
    const Heads expected = differentiated(x, at::kCPU, at::kFloat, weights, [&](const auto&... heads) {
      return reference::causal_attention(heads..., c.visibility, c.scoring);
    });
    EXPECT_TRUE(test::is_close(found.out, expected.out, kFp32Rounding));
    EXPECT_TRUE(test::is_close(found.q, expected.q, kFp32Rounding));
    EXPECT_TRUE(test::is_close(found.k, expected.k, kFp32Rounding));
    EXPECT_TRUE(test::is_close(found.v, expected.v, kFp32Rounding));
  }
}

TEST(DocumentBounds, AreTheFirstTokensOfAllDocumentsAndTheirEnd) {
  const at::Tensor starts = at::tensor({0, 0, 2, 3, 3, 0, 0, 0, 0, 4}, at::kInt).view({2, 5});
  const DocumentBounds bounds = document_bounds(starts, at::kCPU);
  EXPECT_TRUE(bounds.offsets.equal(at::tensor({0, 2, 3, 5, 9, 10}, at::kInt)));
  EXPECT_EQ(bounds.longest, 4);
}

}  // namespace
}  // namespace adept::nn
