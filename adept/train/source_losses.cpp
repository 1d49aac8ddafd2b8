#include "adept/train/source_losses.h"

#include "adept/core/error.h"
#include "adept/data/train_loader.h"

namespace adept::train {

void add_losses(SourceLosses& sums, const data::TrainLoader& loader, std::span<const data::Sequence> sequences,
                std::span<const double> sequence_losses) {
  ADEPT_CHECK(sequences.size() == sequence_losses.size(), "{} losses of {} sequences", sequence_losses.size(),
              sequences.size());
  for (std::int64_t source = 0; source < loader.num_sources(); ++source) sums.try_emplace(loader.source_name(source));
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    LossSum& sum = sums[loader.source_name(sequences[i].source)];
    sum.nats += sequence_losses[i];
    sum.tokens += sequences[i].num_targets();
  }
}

Json mean_losses(const SourceLosses& sums) {
  Json means = Json::object();
  for (const auto& [name, sum] : sums)
    means["loss/" + name] = sum.tokens > 0 ? Json(sum.nats / static_cast<double>(sum.tokens)) : Json();
  return means;
}

void to_json(Json& json, const LossSum& sum) { json = {{"nats", sum.nats}, {"tokens", sum.tokens}}; }

void from_json(const Json& json, LossSum& sum) {
  json.at("nats").get_to(sum.nats);
  json.at("tokens").get_to(sum.tokens);
}

}  // namespace adept::train
