#include "adept/optim/whole_tensors.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/ScopeExit.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <utility>

#include "adept/core/error.h"

namespace adept::optim {
namespace {

constexpr std::int64_t kWindow = kGatheredBytes / 4;  // elements

}  // namespace

WholeTensors::WholeTensors(std::vector<NamedPart> parts, dist::ProcessGroup& group)
    : parts_(std::move(parts)), group_(group) {
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    NamedPart& part = parts_[i];
    ADEPT_CHECK(part.values.scalar_type() == at::kFloat, "{} is not fp32", part.name);
    part.values = part.values.detach();
    const bool is_new = places_.emplace(part.name, Place{.index = i, .begin = num_divided_}).second;
    ADEPT_CHECK(is_new, "{} is listed twice", part.name);
    if (part.shard != nullptr) num_divided_ += c10::multiply_integers(part.shard->shape);
  }
}

void WholeTensors::on_first(FunctionRef<void()> work) {
  group_.on_first(
      [&](dist::ProcessGroup::Help help) {
        help_ = help;
        const auto end = c10::make_scope_exit([&] { help_.reset(); });
        work();
      },
      [&](std::int64_t window) { gather(window); });
}

void WholeTensors::read(const std::string& name, FunctionRef<void(const at::Tensor&)> take) {
  const at::NoGradGuard no_grad;
  const Place& place = places_.at(name);
  const NamedPart& part = parts_[place.index];
  if (part.shard == nullptr) {
    const at::Tensor values = part.values.contiguous().view({-1});
    for (std::int64_t begin = 0; begin < values.numel(); begin += kWindow)
      take(values.slice(0, begin, std::min(begin + kWindow, values.numel())).cpu());
    return;
  }
  const std::int64_t end = place.begin + c10::multiply_integers(part.shard->shape);
  for (std::int64_t begin = place.begin, next = 0; begin < end; begin = next) {
    const std::int64_t window = begin / kWindow, start = window * kWindow;
    next = std::min(end, start + kWindow);
    if (window != window_) {
      ADEPT_CHECK(help_.has_value(), "{} is read by rank 0 alone", name);
      (*help_)(window);
    }
    take(elements_.slice(0, begin - start, next - start));
  }
}

at::Tensor WholeTensors::whole(const std::string& name) {
  const NamedPart& part = parts_[places_.at(name).index];
  if (part.shard == nullptr) return part.values;
  const at::Tensor tensor = at::empty(part.shard->shape, at::kFloat), flat = tensor.view({-1});
  std::int64_t begin = 0;
  read(name, [&](const at::Tensor& piece) {
    flat.slice(0, begin, begin + piece.numel()).copy_(piece);
    begin += piece.numel();
  });
  return tensor;
}

// One rank has each element, and the others add zero: as integers, so that every bit stays.
void WholeTensors::gather(std::int64_t window) {
  const at::NoGradGuard no_grad;
  elements_.reset();
  window_ = -1;
  const std::int64_t begin = window * kWindow, end = std::min(begin + kWindow, num_divided_);
  at::Tensor elements = at::zeros({end - begin}, parts_.front().values.options().dtype(at::kInt));
  for (const auto& [name, place] : places_) {
    const NamedPart& part = parts_[place.index];
    if (part.shard == nullptr) continue;
    const std::int64_t first = place.begin + part.shard->begin();  // of this rank
    const std::int64_t from = std::max(begin, first), to = std::min(end, first + part.shard->size());
    if (from < to)
      elements.slice(0, from - begin, to - begin)
          .copy_(part.values.view({-1}).slice(0, from - first, to - first).view(at::kInt));
  }
  group_.reduce_to_first(elements);
  if (!group_.is_first()) return;
  window_ = window;
  elements_ = elements.view(at::kFloat).cpu();
}

}  // namespace adept::optim
