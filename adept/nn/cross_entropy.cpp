#include "adept/nn/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

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

/// The positions that carry loss: rows of `hidden` and their targets; and the soft cap of their logits.
struct Scored {
  at::Tensor positions;  // (n) indices into the flattened targets; undefined if every position has a target
  at::Tensor hidden;     // (n, D)
  at::Tensor targets;    // (n)
  double soft_cap = 0;
};

Scored select_scored(const at::Tensor& hidden, const Targets& targets, std::int64_t vocab_size, double soft_cap) {
  ADEPT_CHECK(hidden.sizes().slice(0, hidden.dim() - 1) == targets.values.sizes(),
              "hidden states and targets differ in shape");
  const std::int64_t low = targets.scored.least, high = targets.scored.most;
  if (low < 0 || high >= vocab_size) {
    throw DataError(
        "target token {} is outside the model's vocabulary of {} tokens; the text was made with another tokenizer",
        low < 0 ? low : high, vocab_size);
  }
  const at::Tensor rows = hidden.reshape({-1, hidden.size(-1)});
  return {.positions = targets.positions,
          .hidden = targets.positions.defined() ? rows.index_select(0, targets.positions) : rows,
          .targets = targets.scored.values,
          .soft_cap = soft_cap};
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
  at::Tensor hidden;   // (n, D) in the compute dtype
  at::Tensor head;     // (V, D) in the wide type
  at::Tensor trained;  // (K, D) in the wide type: of the trained rows of a frozen head
};

/// The gradients that are wanted.
struct Wanted {
  bool hidden = false, head = false, trained = false;
  bool any() const { return hidden || head || trained; }
};

/// The losses and gradients of scored_losses, a chunk of tokens at a time. `head` contains the trained rows, whose ids
/// are given.
at::Tensor chunked_losses(const Scored& scored, const at::Tensor& head, const at::Tensor& trained_ids, Wanted want,
                          Gradients& gradients) {
  RECORD_FUNCTION("head and loss", std::vector<c10::IValue>());
  const at::Tensor &hidden = scored.hidden, &targets = scored.targets;
  const std::int64_t n = hidden.size(0), vocab_size = head.size(0);
  const at::ScalarType wide = accumulate_type(hidden);
  at::Tensor losses = at::empty({n}, hidden.options().dtype(wide));
  if (want.hidden) gradients.hidden = at::empty({n, hidden.size(1)}, hidden.options());
  if (want.head) gradients.head = at::zeros(head.sizes(), head.options().dtype(wide));
  if (want.trained) gradients.trained = at::zeros({trained_ids.size(0), head.size(1)}, head.options().dtype(wide));
  const std::int64_t step = head_chunk_tokens(n, vocab_size);
  Chunk chunk(step, vocab_size, hidden, scored.soft_cap);
  for (std::int64_t begin = 0; begin < n; begin += step) {
    const std::int64_t count = std::min(step, n - begin);
    const at::Tensor rows = hidden.narrow(0, begin, count);
    const at::Tensor dlogits =
        chunk.score(rows, head, targets.narrow(0, begin, count), losses.narrow(0, begin, count), want.any());
    if (!want.any()) continue;
    if (want.hidden) {
      at::Tensor slot = gradients.hidden.narrow(0, begin, count);
      matmul_out(slot, dlogits, head);
    }
    if (want.head) add_product(gradients.head, dlogits.t(), rows);
    if (want.trained) add_product(gradients.trained, dlogits.index_select(1, trained_ids).t(), rows);
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
  at::Tensor gradient(const at::Tensor& head, const TrainedRows& trained) {
    at::Tensor of_targets = head.index_select(0, targets_);
    if (trained.any()) of_targets = with_trained(of_targets.to(hidden_.scalar_type()), targets_, trained);
    if (soft_cap_ > 0) of_targets = of_targets * slope_of(target_logits_, soft_cap_).unsqueeze(1);
    mixed_.div_(sum_.to(at::kFloat).unsqueeze(1)).sub_(of_targets);
    return mixed_.to(hidden_.scalar_type());
  }

  /// Adds d losses / d trained rows of the head to `sum` (K, D) fp32. Their logits are computed again.
  void add_gradient(at::Tensor& sum, const TrainedRows& trained) const {
    const at::Tensor normalizers = (sum_.log() + base_).to(at::kFloat).unsqueeze(1);
    const std::int64_t step =
        equal_parts(trained.ids.host.numel(), std::max<std::int64_t>(kBlockElements / hidden_.size(0), 1));
    for (std::int64_t first = 0; first < trained.ids.host.numel(); first += step) {
      const at::Tensor values = trained.values.narrow(0, first, std::min(step, trained.ids.host.numel() - first));
      at::Tensor logits = at::empty({hidden_.size(0), values.size(0)}, hidden_.options());
      matmul_out(logits, hidden_, values.t());
      const at::Tensor capped = soft_capped(logits.to(at::kFloat), soft_cap_);
      at::Tensor slopes = (capped - normalizers).exp_();
      if (soft_cap_ > 0) slopes.mul_(slope_of(capped, soft_cap_));
      at::Tensor part = sum.narrow(0, first, values.size(0));
      add_product(part, slopes.to(hidden_.scalar_type()).t(), hidden_);
    }
    const auto [positions, slots] = find_trained(targets_, trained);
    at::Tensor rows = hidden_.index_select(0, positions).to(at::kFloat);
    if (soft_cap_ > 0) rows.mul_(slope_of(target_logits_.index_select(0, positions), soft_cap_).unsqueeze(1));
    sum.index_add_(0, slots, rows, -1);
  }

  /// Logits of a block.
  static constexpr std::int64_t kBlockElements = 4 << 20;

 private:
  at::Tensor hidden_, targets_;
  double soft_cap_;
  at::Tensor base_, sum_, target_logits_;  // (n), of the kernel
  at::Tensor mixed_;                       // (n, D) fp32: rows of the head, weighted by e^(logit - base)
};

/// Rows of a head in the type of the hidden states, with its trained ones.
class HeadBlocks {
 public:
  HeadBlocks(const at::Tensor& head, const TrainedRows& trained, std::int64_t most_rows, at::ScalarType type)
      : head_(head), trained_(trained), converts_(head.scalar_type() != type) {
    if (converts_ || trained.any()) buffer_ = at::empty({most_rows, head.size(1)}, head.options().dtype(type));
  }

  /// Valid until the next call.
  at::Tensor rows(std::int64_t first, std::int64_t count) const {
    const at::Tensor stored = head_.narrow(0, first, count);
    std::int64_t begin = 0, end = 0;  // of the trained ones
    if (trained_.any()) {
      const auto* ids = trained_.ids.host.const_data_ptr<std::int64_t>();
      begin = std::lower_bound(ids, ids + trained_.ids.host.numel(), first) - ids;
      end = std::lower_bound(ids + begin, ids + trained_.ids.host.numel(), first + count) - ids;
    }
    if (!converts_ && begin == end) return stored;
    at::Tensor block = buffer_.narrow(0, 0, count).copy_(stored);
    if (begin < end)
      block.index_copy_(0, trained_.ids.values.slice(0, begin, end) - first, trained_.values.slice(0, begin, end));
    return block;
  }

 private:
  const at::Tensor& head_;
  const TrainedRows& trained_;
  bool converts_;
  at::Tensor buffer_;
};

/// Losses of the scored positions (n), and the gradients that are wanted. The head is frozen but for `trained`, which
/// has the type of the hidden states.
at::Tensor streamed_losses(const Scored& scored, const at::Tensor& head, const TrainedRows& trained, Wanted want,
                           Gradients& gradients) {
  RECORD_FUNCTION("head and loss", std::vector<c10::IValue>());
  constexpr std::int64_t kBlockElements = StreamedSoftmax::kBlockElements, kMostTokens = 4096;
  const std::int64_t n = scored.hidden.size(0), vocab_size = head.size(0), width = head.size(1);
  const std::int64_t tokens = std::max<std::int64_t>(equal_parts(n, kMostTokens), 1);
  // Neither the logits of a block nor its part of the head, where that is converted, are more than so many.
  const std::int64_t columns =
      equal_parts(vocab_size, std::max<std::int64_t>(kBlockElements / std::max(tokens, width), 1));
  const at::Tensor buffer = at::empty({tokens * columns}, scored.hidden.options());
  const HeadBlocks blocks(head, trained, columns, scored.hidden.scalar_type());
  at::Tensor losses = at::empty({n}, scored.hidden.options().dtype(at::kFloat));
  if (want.hidden) gradients.hidden = at::empty_like(scored.hidden);
  if (want.trained) gradients.trained = at::zeros(trained.values.sizes(), losses.options());
  for (std::int64_t begin = 0; begin < n; begin += tokens) {
    const std::int64_t count = std::min(tokens, n - begin);
    StreamedSoftmax softmax(scored.hidden.narrow(0, begin, count), scored.targets.narrow(0, begin, count),
                            scored.soft_cap, want.hidden);
    for (std::int64_t first = 0; first < vocab_size; first += columns)
      softmax.add(blocks.rows(first, std::min(columns, vocab_size - first)), first, buffer);
    losses.narrow(0, begin, count).copy_(softmax.losses());
    if (want.hidden) gradients.hidden.narrow(0, begin, count).copy_(softmax.gradient(head, trained));
    if (want.trained) softmax.add_gradient(gradients.trained, trained);
  }
  return losses;
}

/// The losses of the scored positions (n) and the gradients that are wanted.
at::Tensor scored_losses(const Scored& scored, const at::Tensor& head, const TrainedRows& trained, Wanted want,
                         Gradients& gradients) {
  const at::ScalarType type = scored.hidden.scalar_type();
  const TrainedRows rows = trained.detached(type);
  if (has_kernel(scored.hidden) && !want.head) return streamed_losses(scored, head, rows, want, gradients);
  return chunked_losses(scored, merged_rows(head, type, rows), rows.ids.values, want, gradients);
}

/// Losses of the scored positions (n), or 0 elsewhere: in the shape of the targets, fp32.
at::Tensor at_positions(const at::Tensor& losses, const Targets& targets) {
  const at::Tensor narrow = losses.to(at::kFloat);
  const at::IntArrayRef shape = targets.values.sizes();
  if (!targets.positions.defined()) return narrow.view(shape);
  return at::zeros({targets.values.numel()}, narrow.options()).index_copy_(0, targets.positions, narrow).view(shape);
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& hidden, const at::Tensor& head,
                            const std::optional<at::Tensor>& trained_values, const TrainedRows& trained,
                            const Targets& targets, double soft_cap, at::Tensor* token_losses) {
    const Scored scored = select_scored(hidden, targets, head.size(0), soft_cap);
    const Wanted want = {.hidden = hidden.requires_grad(),
                         .head = head.requires_grad(),
                         .trained = trained_values && trained_values->requires_grad()};
    ADEPT_CHECK(!want.head || !want.trained, "the head trains as a whole, and rows of it apart");
    Gradients gradients;
    const at::Tensor losses = scored_losses(scored, head, trained, want, gradients);
    if (token_losses != nullptr) *token_losses = at_positions(losses, targets);
    context->saved_data["shape"] = hidden.sizes().vec();
    context->saved_data["head_dtype"] = static_cast<std::int64_t>(head.scalar_type());
    context->save_for_backward({scored.positions, gradients.hidden, gradients.head, gradients.trained});
    return losses.sum();
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("linear_cross_entropy");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& positions = saved[0];
    at::Tensor dhidden, dhead, dtrained;
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
    if (saved[3].defined() && context->needs_input_grad(2)) dtrained = saved[3] * outputs[0];
    return {dhidden, dhead, dtrained, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor plain_losses(const Scored& scored, const at::Tensor& head, const TrainedRows& trained) {
  Gradients unused;
  return scored_losses(scored, head, trained, {}, unused);
}

}  // namespace

at::Tensor soft_capped(const at::Tensor& x, double soft_cap) { return reference::soft_capped(x, soft_cap); }

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head, const Targets& targets,
                                double soft_cap, at::Tensor* token_losses, const TrainedRows& trained) {
  check_weight_type(head, hidden);
  if (active_kernels() == Kernels::kReference) {
    const at::Tensor whole = trained.any() ? merged_rows(head, hidden.scalar_type(), trained) : head;
    return reference::linear_cross_entropy(hidden, whole, targets.values, soft_cap, token_losses);
  }
  if (needs_gradient(hidden) || needs_gradient(head) || (trained.any() && needs_gradient(trained.values)))
    return LinearCrossEntropy::apply(hidden, head, trained.any() ? std::optional(trained.values) : std::nullopt,
                                     trained, targets, soft_cap, token_losses);
  const at::NoGradGuard no_grad;
  const Scored scored = select_scored(hidden, targets, head.size(0), soft_cap);
  const at::Tensor losses = plain_losses(scored, head, trained);
  if (token_losses != nullptr) *token_losses = at_positions(losses, targets);
  return losses.sum();
}

at::Tensor linear_cross_entropy_per_token(const at::Tensor& hidden, const at::Tensor& head, const Targets& targets,
                                          double soft_cap, const TrainedRows& trained) {
  check_weight_type(head, hidden);
  const at::NoGradGuard no_grad;
  if (active_kernels() == Kernels::kReference) {
    const at::Tensor whole = trained.any() ? merged_rows(head, hidden.scalar_type(), trained) : head;
    return reference::linear_cross_entropy_per_token(hidden, whole, targets.values, soft_cap);
  }
  const Scored scored = select_scored(hidden, targets, head.size(0), soft_cap);
  return at_positions(plain_losses(scored, head, trained), targets);
}

// Enough to keep the GEMM efficient (each call packs the whole head again), few enough to keep a chunk's logits near
// 128 MB in fp32, as long as that leaves 256.
std::int64_t head_chunk_tokens(std::int64_t num_tokens, std::int64_t vocab_size) {
  constexpr std::int64_t kChunkElements = 32 << 20;
  return equal_parts(num_tokens, std::clamp<std::int64_t>(kChunkElements / vocab_size, 256, 2048));
}

}  // namespace adept::nn
