// The realised mixture: what a training has read of each source.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "adept/core/json.h"
#include "adept/data/train_loader.h"

namespace adept::train {

struct SourceUse {
  std::string name;
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;
  double epochs = 0;        ///< with the fraction of the last one
  bool is_removed = false;  ///< a source of an earlier mixture
};

/// Of every source, since the start of the data or, with `before`, since then. A source of an earlier mixture is listed
/// if it was read.
std::vector<SourceUse> source_uses(const data::TrainLoader& loader, const std::vector<SourceUse>& before = {});

/// {source: {"sequences", "tokens", "epochs"}}, and {"removed": true} of a source of an earlier mixture.
Json to_json(const std::vector<SourceUse>& uses);

}  // namespace adept::train
