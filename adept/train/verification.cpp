#include "adept/train/verification.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <utility>

#include "adept/core/host_name.h"
#include "adept/nn/square_sum.h"
#include "adept/train/block_hashes.h"
#include "adept/train/checkpoint.h"

namespace adept::train {
namespace {

constexpr std::size_t kMostRanks = 4;  // in a message

constexpr const char* kWhatToDo =
    "The memory or the processor of that machine is probably faulty: test it, or leave it out";

bool same_bits(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

// "1 of 12 blocks of 16 KiB differ".
std::string describe_difference(std::span<const std::uint64_t> before, std::span<const std::uint64_t> now) {
  const std::size_t all = std::max(before.size(), now.size());
  std::size_t count = all;
  for (std::size_t i = 0; i < std::min(before.size(), now.size()); ++i)
    count -= static_cast<std::size_t>(before[i] == now[i]);
  return fmt::format("{} of {} blocks of {} KiB differ", count, all, kHashedBlock / 1024);
}

}  // namespace

TensorBits bits_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  const at::Tensor values = tensor.detach().contiguous();
  return {.blocks = block_hashes(values), .norm = std::sqrt(nn::square_sum({values}).item<double>())};
}

void GradientRecord::add(std::string part, const at::Tensor& loss) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& leaf : trainable_.leaves()) gradients.push_back(leaf.grad());
  own_.push_back(make_part(std::move(part), loss.item<double>(), gradients));
  for (auto& [index, bits] : std::exchange(sent_, {})) own_.back().gradients[index] = std::move(bits);
}

void GradientRecord::finish(double loss) {
  total_.push_back(make_part("the sum of all micro-batches", loss, trainable_.gradients()));
}

GradientRecord::Part GradientRecord::make_part(std::string name, double loss, std::span<const at::Tensor> gradients) {
  Part part{.name = std::move(name), .loss = loss, .gradients = {}};
  for (const at::Tensor& gradient : gradients) part.gradients.push_back(bits_of(gradient));
  return part;
}

std::string GradientRecord::difference(std::span<const Part> before, std::span<const Part> now) const {
  for (std::size_t p = 0; p < before.size(); ++p) {
    std::string first;
    std::size_t count = 0;
    for (std::size_t i = 0; i < now[p].gradients.size(); ++i) {
      const TensorBits &a = before[p].gradients[i], &b = now[p].gradients[i];
      if (a.blocks == b.blocks) continue;
      if (count++ == 0)
        first = fmt::format("the gradient of {}: {} (norm {}, before {})", trainable_.parameters()[i].name,
                            describe_difference(a.blocks, b.blocks), b.norm, a.norm);
    }
    std::vector<std::string> found;
    if (!same_bits(before[p].loss, now[p].loss))
      found.push_back(fmt::format("its part of the loss is {}, before {}", now[p].loss, before[p].loss));
    if (count > 0) found.push_back(first);
    if (count > 1) found.push_back(fmt::format("{} of {} gradients differ", count, now[p].gradients.size()));
    if (!found.empty()) return fmt::format("in {}, {}", now[p].name, fmt::join(found, "; "));
  }
  return "";
}

std::string difference_of(const GradientRecord& first, const GradientRecord& second, dist::ProcessGroup& group) {
  const auto of_all = [&](const std::string& own) {
    const std::vector<std::string> texts =
        group.all_gather(own.empty() ? own : fmt::format("({}) {}", host_name(), own));
    std::vector<std::string> found;
    for (std::size_t rank = 0; rank < texts.size(); ++rank)
      if (!texts[rank].empty()) found.push_back(fmt::format("rank {} {}", rank, texts[rank]));
    const std::size_t all = found.size();
    if (all > kMostRanks) found.resize(kMostRanks);
    return fmt::format("{}{}", fmt::join(found, ". "), all > kMostRanks ? fmt::format(". In all, {} ranks", all) : "");
  };
  // Wrong gradients of one rank make the sum of all ranks wrong.
  const std::string own = of_all(second.difference(first.own_, second.own_));
  const std::string total = of_all(second.difference(first.total_, second.total_));
  return own.empty() ? total : own;
}

CorruptionError unequal_step(std::int64_t step, const std::string& difference, const std::filesystem::path& run_dir) {
  return CorruptionError(fmt::format(
      "step {} gave other bits when it was computed again from the same state (train.verify_every): {}. {}. Nothing of "
      "this step is saved, and checkpoints since the last verified step are set aside. The last state before is {}: "
      "repeat the command to continue from there.",
      step, difference, kWhatToDo, last_state(run_dir, step - 1)));
}

FrozenBits::FrozenBits(const model::Decoder& decoder, const Trainable& trainable, std::int64_t step)
    : decoder_(decoder), trainable_(trainable), bits_(read()), step_(step) {}

dist::HeldByName FrozenBits::replicated() const {
  dist::HeldByName held;
  for (const auto& [name, bits] : bits_)
    if (!bits.is_divided) held[name + " in memory"] = {hash_of_blocks(bits.blocks)};
  return held;
}

void FrozenBits::verify(std::int64_t step, const std::filesystem::path& run_dir) {
  for (const auto& [name, now] : read()) {
    const Bits& first = bits_.at(name);
    if (now.blocks == first.blocks) continue;
    throw CorruptionError(fmt::format(
        "frozen weights changed in memory on {} between steps {} and {}: {}: {}. {}. Nothing of these steps is saved; "
        "the last state that is surely right is {}: repeat the command to continue from there.",
        host_name(), step_, step, name, describe_difference(first.blocks, now.blocks), kWhatToDo,
        last_state(run_dir, step_)));
  }
  step_ = step;
}

std::map<std::string, FrozenBits::Bits> FrozenBits::read() const {
  std::set<std::string> trained;
  for (const optim::Parameter& p : trainable_.parameters()) trained.insert(p.name);
  std::map<std::string, Bits> bits;
  model::Weights weights = decoder_.weights();
  const model::LayerSource* source = weights.source.get();
  for (const model::Parameter& p : model::named_parameters(decoder_.config(), weights))
    if (!trained.contains(p.name) && (source == nullptr || !source->provides(*p.tensor)))
      bits.emplace(p.name, Bits{.blocks = block_hashes(*p.tensor)});
  for (std::int64_t l = 0; source != nullptr && l < decoder_.num_layers(); ++l)
    if (const at::Tensor part = source->kept(l); part.defined())
      bits.emplace(fmt::format("part of layer {} that this rank keeps", l),
                   Bits{.blocks = block_hashes(part), .is_divided = true});
  return bits;
}

}  // namespace adept::train
