// What would take less memory, or fit, where a configuration does not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/io/weight_files.h"
#include "adept/model/config.h"
#include "adept/plan/buffers.h"
#include "adept/plan/costs.h"

namespace adept::plan {

/// A change of the configuration and the memory that it leads to.
struct Advice {
  std::string change;     ///< "train.batch_size: 1"
  std::int64_t peak = 0;  ///< bytes of a rank
};

/// What does not fit. Referenced objects must outlive it.
struct TooLarge {
  const config::RunConfig& config;
  const model::ModelConfig& base;
  const io::WeightFiles& files;
  const std::vector<int>& after;  ///< base layers that get copies
  const Costs& costs;
  Communication communication;
  std::int64_t ranks = 1;
  std::int64_t usable = 0;  ///< bytes of a rank
  bool has_devices = true;  ///< of their own, so that more ranks bring more memory
};

/// Finds changes: smaller ones first.
class Adviser {
 public:
  explicit Adviser(const TooLarge& planned) : planned_(planned) {}

  std::vector<Advice> advise();

 private:
  struct Change {
    std::int64_t ranks = 0;  // 0: as planned
    bool shares = false, recomputes = false, one_row = false;
  };
  void advise_less_at_a_time();
  void advise_sharing();
  bool add(const Change& change);
  bool can_recompute() const;

  TooLarge planned_;
  std::optional<Costs> recomputed_;
  std::vector<Advice> advice_;
};

}  // namespace adept::plan
