#include "adept/train/train_summary.h"

namespace adept::train {

Json to_json(const TrainSummary& s) {
  Json json = {{"train_steps", s.steps},
               {"train_loss", s.train_loss},
               {"final_loss", s.final_loss},
               {"train_tokens", s.total_tokens},
               {"train_sources", to_json(s.sources)},
               {"train_runtime", s.train_seconds},
               {"train_tokens_per_second", s.tokens_per_second},
               {"trained_parameters", s.trained_parameters},
               {"all_parameters", s.all_parameters},
               {"nonfinite_steps", s.nonfinite_steps},
               {"speed_of_light", s.speed_of_light}};
  if (s.memory.peak == 0) return json;  // no step in this session
  json["data_wait"] = s.data_wait;
  json["memory_bytes"] = to_json(s.memory);
  json["activation_cache"] = {{"bytes", s.activation_cache.bytes},
                              {"positions_read", s.activation_cache.positions_read},
                              {"positions_computed", s.activation_cache.positions_computed}};
  return json;
}

}  // namespace adept::train
