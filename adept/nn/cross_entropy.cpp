#include "adept/nn/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "adept/nn/autograd.h"
#include "adept/nn/kernels.h"
#include "adept/nn/linear.h"
#include "adept/nn/matmul.h"
#include "adept/nn/reference.h"

namespace adept::nn {
namespace {

/// The size of each part, but perhaps the last, if `size` is cut into as few of nearly equal size as `most` allows.
std::int64_t equal_parts(std::int64_t size, std::int64_t most) {
  const std::int64_t num_parts = std::max<std::int64_t>((size + most - 1) / most, 1);
  return (size + num_parts - 1) / num_parts;
}

/// Tokens per chunk: enough to keep the GEMM efficient (each call packs the whole head again), few enough to keep a
/// chunk's logits near 128 MB in fp32, as long as that leaves 256. Chunks are of equal size, up to rounding.
std::int64_t chunk_tokens(std::int64_t num_tokens, std::int64_t vocab_size) {
  constexpr std::int64_t kChunkElements = 32 << 20;
  return equal_parts(num_tokens, std::clamp<std::int64_t>(kChunkElements / vocab_size, 256, 2048));
}

/// The positions that carry loss: rows of `hidden` and their targets; and the soft cap of their logits.
struct Scored {
  at::Tensor positions;  // (n) indices into the flattened targets; undefined if every position has a target
  at::Tensor hidden;     // (n, D)
  at::Tensor targets;    // (n)
  double soft_cap = 0;
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

Scored select_scored(const at::Tensor& hidden, const at::Tensor& targets, std::int64_t vocab_size, double soft_cap) {
  ADEPT_CHECK(hidden.sizes().slice(0, hidden.dim() - 1) == targets.sizes(),
              "hidden states and targets differ in shape");
  Scored scored;
  scored.soft_cap = soft_cap;
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

/// The derivative of soft_capped() values by what was capped.
at::Tensor slope_of(const at::Tensor& capped, double soft_cap) { return 1 - (capped / soft_cap).square_(); }

/// The logits of a chunk, and their losses and gradients. The buffers are reused from chunk to chunk.
class Chunk {
 public:
  Chunk(std::int64_t tokens, std::int64_t vocab_size, const at::Tensor& hidden, double soft_cap)
      : logits_(at::empty({tokens, vocab_size}, hidden.options())), soft_cap_(soft_cap) {}

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
                                             .soft_cap = static_cast<float>(soft_cap_),
                                             .wants_gradient = wants_gradient};
    for_each_range("cross_entropy", logits.size(0), logits.size(1), [&](std::int64_t begin, std::int64_t end) {
      kernels::functions().cross_entropy(arguments, begin, end);
    });
    return logits;
  }

 private:
  at::Tensor score_by_aten(at::Tensor logits, const at::Tensor& target, at::Tensor losses, bool wants_gradient) {
    const at::Tensor capped = soft_capped(logits.to(losses.scalar_type()), soft_cap_);
    at::Tensor log_softmax = at::_log_softmax(capped, 1, false);
    losses.copy_(log_softmax.gather(1, target).squeeze(1)).neg_();
    if (!wants_gradient) return {};
    log_softmax.exp_().scatter_add_(1, target, at::full_like(target, -1, log_softmax.options()));
    if (soft_cap_ > 0) log_softmax.mul_(slope_of(capped, soft_cap_));
    return log_softmax.to(logits.scalar_type());
  }

  at::Tensor logits_;
  double soft_cap_;
};

/// sum += a b; the sum may be of a wider type.
void add_product(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) {
  if (has_matmul_kernel(a)) {
    add_matmul_by_kernel(sum, a, b);
  } else if (sum.scalar_type() == a.scalar_type()) {
    sum.addmm_(a, b);
  } else {
    sum.add_(at::mm(a, b));
  }
}

struct Gradients {
  at::Tensor hidden;  // (n, D) in the compute dtype
  at::Tensor head;    // (V, D) in the wide type
};

/// The losses and gradients of scored_losses, a chunk of tokens at a time.
at::Tensor chunked_losses(const Scored& scored, const at::Tensor& head, bool want_hidden, bool want_head,
                          Gradients& gradients) {
  RECORD_FUNCTION("head and loss", std::vector<c10::IValue>());
  const at::Tensor &hidden = scored.hidden, &targets = scored.targets;
  const std::int64_t n = hidden.size(0), vocab_size = head.size(0);
  const at::ScalarType wide = accumulate_type(hidden);
  at::Tensor losses = at::empty({n}, hidden.options().dtype(wide));
  if (want_hidden) gradients.hidden = at::empty({n, hidden.size(1)}, hidden.options());
  if (want_head) gradients.head = at::zeros(head.sizes(), head.options().dtype(wide));
  const std::int64_t step = chunk_tokens(n, vocab_size);
  Chunk chunk(step, vocab_size, hidden, scored.soft_cap);
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
    if (want_head) add_product(gradients.head, dlogits.t(), rows);
  }
  return losses;
}

/// softmax(hidden head^T) of n rows and its product with the head, one block of the vocabulary at a time, as attention
/// processes its keys: the logits of a block stay in the processor's cache, and each part of the head is read once.
class StreamedSoftmax {
 public:
  StreamedSoftmax(const at::Tensor& hidden, const at::Tensor& targets, double soft_cap, bool mixes)
      : hidden_(hidden), targets_(targets), soft_cap_(soft_cap) {
    const at::TensorOptions wide = hidden.options().dtype(at::kFloat);
    base_ = at::full({hidden.size(0)}, kernels::OnlineSoftmax::kFirstBase, wide);
    sum_ = at::zeros({hidden.size(0)}, wide.dtype(at::kDouble));
    target_logits_ = at::zeros({hidden.size(0)}, wide);
    if (mixes) mixed_ = at::zeros(hidden.sizes(), wide);
  }

  /// Adds the classes first .. of `head` (classes, D), of hidden's type. `buffer` takes their logits.
  void add(const at::Tensor& head, std::int64_t first, const at::Tensor& buffer) {
    const std::int64_t rows = hidden_.size(0), columns = head.size(0);
    at::Tensor logits = buffer.narrow(0, 0, rows * columns).view({rows, columns});
    matmul_out(logits, hidden_, head.t());
    const kernels::OnlineSoftmax arguments = {.element = element_of(logits),
                                              .first = first,
                                              .columns = columns,
                                              .logits = logits.data_ptr(),
                                              .targets = targets_.const_data_ptr<std::int64_t>(),
                                              .base = base_.data_ptr<float>(),
                                              .sum = sum_.data_ptr<double>(),
                                              .target_logits = target_logits_.data_ptr<float>(),
                                              .mixed = mixed_.defined() ? mixed_.data_ptr<float>() : nullptr,
                                              .width = head.size(1),
                                              .soft_cap = static_cast<float>(soft_cap_)};
    for_each_range("online_softmax", rows, columns, [&](std::int64_t begin, std::int64_t end) {
      kernels::functions().online_softmax(arguments, begin, end);
    });
    if (mixed_.defined()) add_product(mixed_, logits, head);
  }

  /// (n) fp32.
  at::Tensor losses() const { return (sum_.log() + base_ - target_logits_).to(at::kFloat); }
  /// d losses / d hidden, (n, D): the mean row of the head under the softmax minus the target's row. Call once.
  at::Tensor gradient(const at::Tensor& head) {
    at::Tensor of_targets = head.index_select(0, targets_);
    if (soft_cap_ > 0) of_targets = of_targets * slope_of(target_logits_, soft_cap_).unsqueeze(1);
    mixed_.div_(sum_.to(at::kFloat).unsqueeze(1)).sub_(of_targets);
    return mixed_.to(hidden_.scalar_type());
  }

 private:
  at::Tensor hidden_, targets_;
  double soft_cap_;
  at::Tensor base_, sum_, target_logits_;  // (n), of the kernel
  at::Tensor mixed_;                       // (n, D) fp32: rows of the head, weighted by e^(logit - base)
};

/// Losses of the scored positions (n), and their gradient unless it is null. The head is frozen.
at::Tensor streamed_losses(const Scored& scored, const at::Tensor& head, at::Tensor* grad_hidden) {
  RECORD_FUNCTION("head and loss", std::vector<c10::IValue>());
  constexpr std::int64_t kBlockElements = 4 << 20, kMostTokens = 4096;
  const std::int64_t n = scored.hidden.size(0), vocab_size = head.size(0), width = head.size(1);
  const std::int64_t tokens = std::max<std::int64_t>(equal_parts(n, kMostTokens), 1);
  // Neither the logits of a block nor its part of the head, where that is converted, are more than so many.
  const std::int64_t columns =
      equal_parts(vocab_size, std::max<std::int64_t>(kBlockElements / std::max(tokens, width), 1));
  const at::Tensor buffer = at::empty({tokens * columns}, scored.hidden.options());
  const bool converts = head.scalar_type() != scored.hidden.scalar_type();
  const at::Tensor part = converts ? at::empty({columns, width}, scored.hidden.options()) : at::Tensor();
  const auto converted = [&](const at::Tensor& block) {
    return converts ? part.narrow(0, 0, block.size(0)).copy_(block) : block;
  };
  at::Tensor losses = at::empty({n}, scored.hidden.options().dtype(at::kFloat));
  if (grad_hidden != nullptr) *grad_hidden = at::empty_like(scored.hidden);
  for (std::int64_t begin = 0; begin < n; begin += tokens) {
    const std::int64_t count = std::min(tokens, n - begin);
    StreamedSoftmax softmax(scored.hidden.narrow(0, begin, count), scored.targets.narrow(0, begin, count),
                            scored.soft_cap, grad_hidden != nullptr);
    for (std::int64_t first = 0; first < vocab_size; first += columns)
      softmax.add(converted(head.narrow(0, first, std::min(columns, vocab_size - first))), first, buffer);
    losses.narrow(0, begin, count).copy_(softmax.losses());
    if (grad_hidden != nullptr) grad_hidden->narrow(0, begin, count).copy_(softmax.gradient(head));
  }
  return losses;
}

/// The losses of the scored positions (n) and their gradients that are wanted: of hidden, of the head.
at::Tensor scored_losses(const Scored& scored, const at::Tensor& head, bool want_hidden, bool want_head,
                         Gradients& gradients) {
  if (has_kernel(scored.hidden) && !want_head)
    return streamed_losses(scored, head, want_hidden ? &gradients.hidden : nullptr);
  return chunked_losses(scored, head.to(scored.hidden.scalar_type()), want_hidden, want_head, gradients);
}

/// Losses of the scored positions (n), or 0 elsewhere: in the shape of the targets, fp32.
at::Tensor at_positions(const Scored& scored, const at::Tensor& losses, const at::Tensor& targets) {
  const at::Tensor narrow = losses.to(at::kFloat);
  if (!scored.positions.defined()) return narrow.view(targets.sizes());
  return at::zeros({targets.numel()}, narrow.options()).index_copy_(0, scored.positions, narrow).view(targets.sizes());
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& hidden, const at::Tensor& head,
                            const at::Tensor& targets, double soft_cap, at::Tensor* token_losses) {
    const Scored scored = select_scored(hidden, targets, head.size(0), soft_cap);
    Gradients gradients;
    const at::Tensor losses = scored_losses(scored, head, hidden.requires_grad(), head.requires_grad(), gradients);
    if (token_losses != nullptr) *token_losses = at_positions(scored, losses, targets);
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
    return {dhidden, dhead, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor plain_losses(const Scored& scored, const at::Tensor& head) {
  Gradients unused;
  return scored_losses(scored, head, false, false, unused);
}

}  // namespace

at::Tensor soft_capped(const at::Tensor& x, double soft_cap) { return reference::soft_capped(x, soft_cap); }

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
                                double soft_cap, at::Tensor* token_losses) {
  check_weight_type(head, hidden);
  if (active_kernels() == Kernels::kReference)
    return reference::linear_cross_entropy(hidden, head, targets, soft_cap, token_losses);
  if (needs_gradient(hidden) || needs_gradient(head))
    return LinearCrossEntropy::apply(hidden, head, targets, soft_cap, token_losses);
  const at::NoGradGuard no_grad;
  const Scored scored = select_scored(hidden, targets, head.size(0), soft_cap);
  const at::Tensor losses = plain_losses(scored, head);
  if (token_losses != nullptr) *token_losses = at_positions(scored, losses, targets);
  return losses.sum();
}

at::Tensor linear_cross_entropy_per_token(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
                                          double soft_cap) {
  check_weight_type(head, hidden);
  if (active_kernels() == Kernels::kReference)
    return reference::linear_cross_entropy_per_token(hidden, head, targets, soft_cap);
  const at::NoGradGuard no_grad;
  const Scored scored = select_scored(hidden, targets, head.size(0), soft_cap);
  return at_positions(scored, plain_losses(scored, head), targets);
}

}  // namespace adept::nn
