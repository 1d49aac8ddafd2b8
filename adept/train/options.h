// Options of training.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/choices.h"
#include "adept/data/weight_schedule.h"
#include "adept/optim/options.h"

namespace adept::train {

/// What trains (methods.h).
enum class Method { kAdept, kFull, kReplay, kLlamaPro, kLora, kTopKLayers };

/// Activations that the backward pass recomputes instead of keeping.
enum class ActivationCheckpointing {
  kNone,
  kSelective,  ///< the feed-forward of each layer
  kFull,       ///< whole layers; in the lowest trained layer, only the feed-forward
};

/// After loading, exactly one of max_steps and num_train_epochs is set, and exactly one of the two warm-ups.
struct TrainOptions {
  double learning_rate = 2e-4;
  optim::ScheduleKind lr_scheduler = optim::ScheduleKind::kCosine;
  std::optional<std::int64_t> warmup_steps;
  std::optional<double> warmup_ratio;  ///< 0.03 if neither is given
  double min_lr_ratio = 0.1;
  double decay_ratio = 0.1;
  std::optional<std::int64_t> max_steps;
  std::optional<double> num_train_epochs;            ///< 1 if neither is given
  std::optional<data::WeightSchedule> replay_ratio;  ///< set when a configuration is loaded
  bool continue_data = false;
  bool train_new_embeddings = false;
  std::int64_t batch_size = 4;
  std::int64_t grad_accum = 1;
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  double activation_cache = 4;  ///< GB; 0 = none
  optim::AdamWOptions adamw;    ///< its fields are keys of this section
  double max_grad_norm = 1.0;
  std::int64_t logging_steps = 10;
  std::vector<std::string> report_to;  ///< names of train::make_metric_sinks
  std::int64_t eval_steps = 0;
  std::int64_t save_steps = 500;
  std::int64_t save_total_limit = 2;
  std::int64_t max_nonfinite_steps = 5;
  std::int64_t verify_every = 0;
};

struct LoraOptions {
  std::int64_t rank = 8;
  std::optional<double> alpha;  ///< 2 rank if it is not given
  double dropout = 0.0;
  std::vector<std::string> target_modules;  ///< empty: all projections
};

struct TopKLayersOptions {
  std::int64_t num_layers = 4;
};

}  // namespace adept::train

namespace adept {

template <>
inline constexpr std::array kChoices<train::Method> = {
    Choice{train::Method::kAdept, "adept"},   Choice{train::Method::kFull, "full"},
    Choice{train::Method::kReplay, "replay"}, Choice{train::Method::kLlamaPro, "llama_pro"},
    Choice{train::Method::kLora, "lora"},     Choice{train::Method::kTopKLayers, "top_k_layers"}};

template <>
inline constexpr std::array kChoices<train::ActivationCheckpointing> = {
    Choice{train::ActivationCheckpointing::kNone, "none"},
    Choice{train::ActivationCheckpointing::kSelective, "selective"},
    Choice{train::ActivationCheckpointing::kFull, "full"}};

}  // namespace adept
