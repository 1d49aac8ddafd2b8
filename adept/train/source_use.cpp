#include "adept/train/source_use.h"

#include <algorithm>

namespace adept::train {

std::vector<SourceUse> source_uses(const data::TrainLoader& loader, const std::vector<SourceUse>& before) {
  std::vector<SourceUse> uses;
  for (std::int64_t s = 0; s < loader.num_sources(); ++s)
    uses.push_back({.name = loader.source_name(s),
                    .sequences = loader.num_sequences(s),
                    .tokens = loader.num_tokens(s),
                    .epochs = loader.epochs(s)});
  for (const data::RemovedSource& source : loader.removed())
    uses.push_back({.name = source.name,
                    .sequences = source.sequences,
                    .tokens = source.tokens,
                    .epochs = source.epochs,
                    .is_removed = true});
  for (SourceUse& use : uses)
    if (const auto earlier = std::ranges::find(before, use.name, &SourceUse::name); earlier != before.end()) {
      use.sequences -= earlier->sequences;
      use.tokens -= earlier->tokens;
      use.epochs -= earlier->epochs;
    }
  std::erase_if(uses, [](const SourceUse& use) { return use.is_removed && use.sequences == 0; });
  return uses;
}

Json to_json(const std::vector<SourceUse>& uses) {
  Json json = Json::object();
  for (const SourceUse& use : uses) {
    json[use.name] = {{"sequences", use.sequences}, {"tokens", use.tokens}, {"epochs", use.epochs}};
    if (use.is_removed) json[use.name]["removed"] = true;
  }
  return json;
}

}  // namespace adept::train
