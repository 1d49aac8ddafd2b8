#include "adept/train/source_use.h"

namespace adept::train {

std::vector<SourceUse> source_uses(const data::TrainLoader& loader, const std::vector<SourceUse>& before) {
  std::vector<SourceUse> uses;
  for (std::int64_t s = 0; s < loader.num_sources(); ++s) {
    const SourceUse earlier = before.empty() ? SourceUse{} : before.at(static_cast<std::size_t>(s));
    uses.push_back({.name = loader.source_name(s),
                    .sequences = loader.num_sequences(s) - earlier.sequences,
                    .tokens = loader.num_tokens(s) - earlier.tokens,
                    .epochs = loader.epochs(s) - earlier.epochs});
  }
  return uses;
}

Json to_json(const std::vector<SourceUse>& uses) {
  Json json = Json::object();
  for (const SourceUse& use : uses)
    json[use.name] = {{"sequences", use.sequences}, {"tokens", use.tokens}, {"epochs", use.epochs}};
  return json;
}

}  // namespace adept::train
