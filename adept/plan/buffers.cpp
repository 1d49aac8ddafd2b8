#include "adept/plan/buffers.h"

#include <algorithm>
#include <map>
#include <vector>

#include "adept/optim/shard.h"
#include "adept/train/gradient_exchange.h"

namespace adept::plan {
namespace {

constexpr double kGradientBytes = 4;  // of an element, fp32

}  // namespace

// The backward pass finds the two highest ones in their buffers.
double Buffers::of_gathered_layer(std::int64_t l, bool is_backward) const {
  if (!how_.by_gloo) return 0;
  std::int64_t above = 0;  // divided layers
  for (std::int64_t i = l + 1; i < layout_.decoder().num_layers(); ++i) above += layout_.is_divided(i) ? 1 : 0;
  std::int64_t below = l - 1;
  while (below >= 0 && !layout_.is_divided(below)) --below;
  const bool is_gathered = is_backward ? below >= 0 && above + (layout_.is_divided(l) ? 1 : 0) >= 2 : above > 0;
  return is_gathered ? static_cast<double>(layout_.largest_divided_layer()) : 0;
}

double Buffers::of_sent_gradients(std::int64_t layer) const {
  if (layout_.ranks() == 1 || how_.is_deterministic) return 0;
  double elements = 0;
  for (const std::vector<std::size_t>& bucket : train::gradient_buckets(layout_.trainable()))
    for (const std::size_t i : bucket)
      if (bucket.size() > 1 && layout_.trainable().layer_of(i) == layer)
        elements += static_cast<double>(layout_.trainable().leaves()[i].numel());
  return kGradientBytes * elements;
}

double Buffers::of_scattered_gradients(std::int64_t layer) const {
  return layout_.bytes_scattered() == 0 ? 0 : 2 * kGradientBytes * static_cast<double>(layout_.trained(layer));
}

double Buffers::of_sums(std::int64_t layer) const {
  if (!has_sums()) return 0;
  double elements = 0;
  const train::Trainable& trainable = layout_.trainable();
  for (std::size_t i = 0; i < trainable.leaves().size(); ++i)
    if (trainable.layer_of(i) == layer && !trainable.is_divided(i))
      elements += static_cast<double>(trainable.leaves()[i].numel());
  return kGradientBytes * elements;
}

double Buffers::of_all_sums() const {
  double bytes = of_sums(Layout::kOutside);
  for (std::int64_t l = 0; l < layout_.decoder().num_layers(); ++l) bytes += of_sums(l);
  return bytes;
}

double Buffers::of_gathered_gradients() const {
  if (!has_sums()) return 0;
  std::int64_t most = 0;
  const train::Trainable& trainable = layout_.trainable();
  for (std::size_t i = 0; i < trainable.leaves().size(); ++i)
    if (!trainable.is_divided(i)) most = std::max(most, trainable.leaves()[i].numel());
  return gathered(kGradientBytes * static_cast<double>(most * layout_.ranks()));
}

double Buffers::of_weights() const {
  if (layout_.ranks() == 1) return 0;
  const train::Trainable& trainable = layout_.trainable();
  std::map<at::ScalarType, std::vector<optim::Gathered>> tensors;  // as in Trainable::publish
  for (std::size_t i = 0; i < trainable.leaves().size(); ++i)
    if (const optim::Parameter& p = trainable.parameters()[i]; p.shard && !trainable.is_divided(i))
      tensors[trainable.leaves()[i].scalar_type()].push_back({trainable.leaves()[i], &*p.shard});
  std::int64_t most = 0;
  for (const auto& [type, of_type] : tensors)
    most = std::max(most, optim::most_gathered_bytes(of_type, layout_.ranks()));
  const auto parts = static_cast<double>(most);
  return gathered(parts) + parts / static_cast<double>(layout_.ranks());
}

}  // namespace adept::plan
