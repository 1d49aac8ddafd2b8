#include "adept/plan/adviser.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "adept/plan/layout.h"
#include "adept/plan/step_memory.h"

namespace adept::plan {
namespace {

constexpr std::int64_t kMostRanks = 1024;

}  // namespace

std::vector<Advice> Adviser::advise() {
  advise_less_at_a_time();
  if (planned_.has_devices) advise_sharing();
  return std::move(advice_);
}

void Adviser::advise_less_at_a_time() {
  const bool has_rows = planned_.config.train.batch_size > 1;
  if (has_rows) add({.one_row = true});
  if (!can_recompute()) return;
  add({.recomputes = true});
  if (has_rows) add({.recomputes = true, .one_row = true});
}

void Adviser::advise_sharing() {
  const Change least = {.shares = true, .recomputes = can_recompute(), .one_row = planned_.config.train.batch_size > 1};
  if (planned_.ranks > 1 && !planned_.config.dist.shard_base) {
    if (add({.shares = true})) return;
    if ((least.recomputes || least.one_row) && add(least)) return;
  }
  for (std::int64_t ranks = std::max<std::int64_t>(2, planned_.ranks * 2); ranks <= kMostRanks; ranks *= 2) {
    Change more = least;
    more.ranks = ranks;
    if (add(more)) return;
    advice_.pop_back();
  }
}

bool Adviser::can_recompute() const {
  return planned_.config.train.activation_checkpointing != train::ActivationCheckpointing::kFull;
}

// Whether that fits.
bool Adviser::add(const Change& change) {
  config::RunConfig config = planned_.config;
  std::vector<std::string> texts;
  if (change.ranks > 0) texts.push_back(fmt::format("--gpus {}", change.ranks));
  if (change.shares) texts.emplace_back("dist.shard_base: true");
  if (change.recomputes) texts.emplace_back("train.activation_checkpointing: full");
  if (change.one_row) texts.emplace_back("train.batch_size: 1");
  config.dist.shard_base |= change.shares;
  if (change.recomputes) config.train.activation_checkpointing = train::ActivationCheckpointing::kFull;
  if (change.one_row) config.train.batch_size = 1;
  const std::int64_t ranks = change.ranks > 0 ? change.ranks : planned_.ranks;
  const Layout layout(config, planned_.base, planned_.files, planned_.after, ranks);
  if (change.recomputes && !recomputed_)
    recomputed_ = Rehearsals(config, planned_.base, layout, {.for_gpu = planned_.has_devices}).of(layout);
  const Costs& costs = change.recomputes ? *recomputed_ : planned_.costs;
  const std::int64_t tokens = config.train.batch_size * config.seq_len;
  advice_.push_back({.change = fmt::format("{}", fmt::join(texts, ", ")),
                     .peak = memory_of(layout, costs, planned_.communication, tokens, config.train.grad_accum).peak});
  return advice_.back().peak <= planned_.usable;
}

}  // namespace adept::plan
