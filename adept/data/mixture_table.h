// The mixture of a training as a table.
#pragma once

#include <string>

#include "adept/data/train_loader.h"

namespace adept::data {

/// A row per source: its documents, the share of those that are split, tokens and sequences of an epoch, the share of
/// padding, its limit in sequences, and its share of the tokens, or of those at the start and the end of a schedule.
std::string format_mixture(const TrainLoader& loader);

}  // namespace adept::data
