// The effect of each trained copy: how much it adds to the residual stream, and the loss without it.
#pragma once

#include <vector>

#include "adept/core/json.h"
#include "adept/core/progress.h"
#include "adept/dist/process_group.h"
#include "adept/method/beyond/source_mean.h"
#include "adept/method/expansion.h"
#include "adept/model/decoder.h"

namespace adept::method {

struct CopyReport {
  ExpandedLayer layer;
  double contribution = 0;  ///< mean over predicted positions of |h_{l+1} - h_l| / |h_l|, 2-norms
  double loss_rise = 0;     ///< loss with the copy bypassed minus the model's, nats per token
};

/// Effects of the copies on one text. Sources have equal weights.
struct CopiesOnText {
  double loss = 0;          ///< of the model, nats per token
  std::int64_t tokens = 0;  ///< predicted
  std::vector<CopyReport> copies;
};

/// Bypasses each copy in turn; the layers below it are computed once. The processes of `group` divide the batches; each
/// gets the same report, which does not depend on how many they are. Throws DataError if no token is predicted.
CopiesOnText inspect_copies(const model::Decoder& decoder, const Expansion& expansion,
                            const std::vector<ProbeBatch>& batches, Progress& progress,
                            dist::ProcessGroup& group = dist::world());

Json to_json(const CopiesOnText& report);

}  // namespace adept::method
