// Evaluates a model on held-out text: one pass, all metrics.
#pragma once

#include <cstdint>
#include <string>

#include "adept/data/sequences.h"
#include "adept/dist/process_group.h"
#include "adept/eval/metric.h"
#include "adept/model/frozen_prefix.h"

namespace adept::eval {

/// A named set of held-out text.
struct EvalSet {
  std::string name;
  data::SequenceSet sequences;
};

struct EvaluateOptions {
  std::int64_t batch_size = 8;  ///< sequences in one forward pass at most
  std::string note = {};        ///< prefix in the progress line, such as "step 500, "
};

/// Scores every sequence once, with a progress line. The processes of `group` divide the batches; each gets the same
/// result, which does not depend on how many they are. Throws DataError, with the set's name, if nothing can be
/// predicted.
Result evaluate(const model::FrozenPrefix& model, const EvalSet& set, const EvaluateOptions& options = {},
                dist::ProcessGroup& group = dist::world());

/// Throws DataError, with the set's name, if nothing in it can be predicted.
void require_targets(const EvalSet& set);

}  // namespace adept::eval
