#include "adept/nn/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "adept/nn/autograd.h"
#include "adept/nn/kernels.h"
#include "adept/nn/matmul.h"
#include "adept/nn/reference.h"

namespace adept::nn {
namespace {

/// Tokens per chunk: enough to keep the GEMM efficient (each call packs the whole head anew), few enough to keep a
/// chunk's logits near 128 MB in fp32. Chunks are of equal size, up to rounding.
std::int64_t chunk_tokens(std::int64_t num_tokens, std::int64_t vocab_size) {
  constexpr std::int64_t kChunkElements = 32 << 20;
  const std::int64_t most = std::clamp<std::int64_t>(kChunkElements / vocab_size, 256, 2048);
  const std::int64_t num_chunks = std::max<std::int64_t>((num_tokens + most - 1) / most, 1);
  return (num_tokens + num_chunks - 1) / num_chunks;
}

/// The positions that carry loss: rows of `hidden` and their targets.
struct Scored {
  at::Tensor positions;  // (n) indices into the flattened targets; undefined if every position has a target
  at::Tensor hidden;     // (n, D)
  at::Tensor targets;    // (n)
};

void check_targets(const at::Tensor& targets, std::int64_t vocab_size) {
  if (targets.numel() == 0) return;
  const std::int64_t low = targets.min().item<std::int64_t>(), high = targets.max().item<std::int64_t>();
  if (low < 0 || high >= vocab_size) {
    throw DataError(
        "target token {} is outside the model's vocabulary of {} tokens; the text was made with another tokenizer",
        low < 0 ? low : high, vocab_size);
  }
}

Scored select_scored(const at::Tensor& hidden, const at::Tensor& targets, std::int64_t vocab_size) {
  ADEPT_CHECK(hidden.sizes().slice(0, hidden.dim() - 1) == targets.sizes(),
              "hidden states and targets differ in shape");
  Scored scored;
  scored.hidden = hidden.reshape({-1, hidden.size(-1)});
  scored.targets = targets.reshape({-1});
  const at::Tensor positions = scored.targets.ne(kIgnoreIndex).nonzero().squeeze(1);
  if (positions.size(0) < scored.targets.size(0)) {
    scored.positions = positions;
    scored.hidden = scored.hidden.index_select(0, positions);
    scored.targets = scored.targets.index_select(0, positions);
  }
  check_targets(scored.targets, vocab_size);
  return scored;
}

/// The logits of a chunk, and what the loss makes of them. The buffers are reused from chunk to chunk.
class Chunk {
 public:
  Chunk(std::int64_t tokens, std::int64_t vocab_size, const at::Tensor& hidden)
      : logits_(at::empty({tokens, vocab_size}, hidden.options())) {}

  /// Writes the losses (n) of `hidden` (n, D). With `wants_gradient`: d loss / d logits, softmax - one_hot(target),
  /// (n, V) in the compute dtype, valid until the next call.
  at::Tensor score(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, at::Tensor losses,
                   bool wants_gradient) {
    at::Tensor logits = logits_.narrow(0, 0, hidden.size(0));
    matmul_out(logits, hidden, head.t());
    if (!has_kernel(hidden)) return score_by_aten(logits, targets.unsqueeze(1), losses, wants_gradient);
    const kernels::CrossEntropy arguments = {.element = element_of(logits),
                                             .vocab_size = logits.size(1),
                                             .logits = logits.data_ptr(),
                                             .targets = targets.const_data_ptr<std::int64_t>(),
                                             .losses = losses.data_ptr<float>(),
                                             .wants_gradient = wants_gradient};
    for_each_range("cross_entropy", logits.size(0), logits.size(1), [&](std::int64_t begin, std::int64_t end) {
      kernels::functions().cross_entropy(arguments, begin, end);
    });
    return logits;
  }

 private:
  at::Tensor score_by_aten(at::Tensor logits, const at::Tensor& target, at::Tensor losses, bool wants_gradient) {
    at::Tensor log_softmax = at::_log_softmax(logits.to(losses.scalar_type()), 1, false);
    losses.copy_(log_softmax.gather(1, target).squeeze(1)).neg_();
    if (!wants_gradient) return {};
    log_softmax.exp_().scatter_add_(1, target, at::full_like(target, -1, log_softmax.options()));
    return log_softmax.to(logits.scalar_type());
  }

  at::Tensor logits_;
};

struct Gradients {
  at::Tensor hidden;  // (n, D) in the compute dtype
  at::Tensor head;    // (V, D) in the wide type
};

/// Losses of the scored positions (n), and the gradients of their sum that are wanted.
at::Tensor losses_and_gradients(const Scored& scored, const at::Tensor& head, bool want_hidden, bool want_head,
                                Gradients& gradients) {
  RECORD_FUNCTION("head and loss", std::vector<c10::IValue>());
  const at::Tensor &hidden = scored.hidden, &targets = scored.targets;
  const std::int64_t n = hidden.size(0), vocab_size = head.size(0);
  const at::ScalarType wide = accumulate_type(hidden);
  at::Tensor losses = at::empty({n}, hidden.options().dtype(wide));
  if (want_hidden) gradients.hidden = at::empty({n, hidden.size(1)}, hidden.options());
  if (want_head) gradients.head = at::zeros(head.sizes(), head.options().dtype(wide));
  const std::int64_t step = chunk_tokens(n, vocab_size);
  Chunk chunk(step, vocab_size, hidden);
  for (std::int64_t begin = 0; begin < n; begin += step) {
    const std::int64_t count = std::min(step, n - begin);
    const at::Tensor rows = hidden.narrow(0, begin, count);
    const at::Tensor dlogits = chunk.score(rows, head, targets.narrow(0, begin, count), losses.narrow(0, begin, count),
                                           want_hidden || want_head);
    if (!want_hidden && !want_head) continue;
    if (want_hidden) {
      at::Tensor slot = gradients.hidden.narrow(0, begin, count);
      matmul_out(slot, dlogits, head);
    }
    if (!want_head) continue;
    if (has_matmul_kernel(dlogits)) {
      add_matmul_by_kernel(gradients.head, dlogits.t(), rows);
    } else if (wide == dlogits.scalar_type()) {
      gradients.head.addmm_(dlogits.t(), rows);
    } else {
      gradients.head.add_(at::mm(dlogits.t(), rows));
    }
  }
  return losses;
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& hidden, const at::Tensor& head,
                            const at::Tensor& targets) {
    const Scored scored = select_scored(hidden, targets, head.size(0));
    Gradients gradients;
    const at::Tensor losses =
        losses_and_gradients(scored, head, hidden.requires_grad(), head.requires_grad(), gradients);
    context->saved_data["shape"] = hidden.sizes().vec();
    context->saved_data["head_dtype"] = static_cast<std::int64_t>(head.scalar_type());
    context->save_for_backward({scored.positions, gradients.hidden, gradients.head});
    return losses.sum();
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("linear_cross_entropy");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& positions = saved[0];
    at::Tensor dhidden, dhead;
    if (saved[1].defined() && context->needs_input_grad(0)) {
      const auto shape = context->saved_data["shape"].toIntVector();
      dhidden = saved[1] * outputs[0].to(saved[1].scalar_type());
      if (positions.defined()) {
        std::int64_t rows = 1;
        for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
        dhidden = at::zeros({rows, shape.back()}, dhidden.options()).index_copy_(0, positions, dhidden);
      }
      dhidden = dhidden.view(shape);
    }
    if (saved[2].defined() && context->needs_input_grad(1)) {
      const auto dtype = static_cast<at::ScalarType>(context->saved_data["head_dtype"].toInt());
      dhead = (saved[2] * outputs[0]).to(dtype);
    }
    return {dhidden, dhead, at::Tensor()};
  }
};

at::Tensor plain_losses(const Scored& scored, const at::Tensor& head) {
  // With bf16 products of its own a processor makes logits faster than the kernel scores them.
  if (has_kernel(scored.hidden) && (scored.hidden.scalar_type() == at::kFloat || has_matmul_kernel(scored.hidden)))
    return scores_by_kernel(scored.hidden, head, scored.targets);
  Gradients unused;
  return losses_and_gradients(scored, head, false, false, unused);
}

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets) {
  if (active_kernels() == Kernels::kReference) return reference::linear_cross_entropy(hidden, head, targets);
  if (needs_gradient(hidden) || needs_gradient(head)) return LinearCrossEntropy::apply(hidden, head, targets);
  const at::NoGradGuard no_grad;
  return plain_losses(select_scored(hidden, targets, head.size(0)), head).sum();
}

at::Tensor linear_cross_entropy_per_token(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets) {
  if (active_kernels() == Kernels::kReference) return reference::linear_cross_entropy_per_token(hidden, head, targets);
  const at::NoGradGuard no_grad;
  const Scored scored = select_scored(hidden, targets, head.size(0));
  const at::Tensor losses = plain_losses(scored, head).to(at::kFloat);
  if (!scored.positions.defined()) return losses.view(targets.sizes());
  return at::zeros({targets.numel()}, losses.options()).index_copy_(0, scored.positions, losses).view(targets.sizes());
}

}  // namespace adept::nn
