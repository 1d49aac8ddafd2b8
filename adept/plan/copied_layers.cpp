#include "adept/plan/copied_layers.h"

#include <algorithm>
#include <cstdint>

#include "adept/method/selection.h"
#include "adept/run/expansion_plan.h"

namespace adept::plan {

CopiedLayers copied_layers(const config::RunConfig& config, const model::ModelConfig& base,
                           const std::filesystem::path& model_dir) {
  if (!config.expands()) return {};
  const method::SelectionOptions& expand = config.expand;
  run::check_expansion(expand, base, model_dir.string());
  const std::optional<method::Importance> importance =
      expand.needs_scores() ? run::finished_probe(config, model_dir) : std::nullopt;
  if (importance || !expand.needs_scores())
    return {.after = run::choose_layers(expand, base, config.seq_len, importance)};
  std::vector<int> allowed;
  for (int l = 0; l < base.num_hidden_layers; ++l)
    if (std::ranges::find(expand.exclude, l) == expand.exclude.end()) allowed.push_back(l);
  const int chosen = run::num_copied_layers(expand, base);
  const auto copies_of = [&](auto begin) { return method::repeat_layers({begin, begin + chosen}, expand.copies); };
  CopiedLayers layers = {.after = copies_of(allowed.begin())};
  if (chosen < std::ssize(allowed)) layers.highest = copies_of(allowed.end() - chosen);
  return layers;
}

}  // namespace adept::plan
