// Checks that involve several fields.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "adept/config/reader.h"
#include "adept/core/log.h"

namespace adept::config {
namespace {

constexpr std::size_t kMaxSourceName = 64;

class CrossCheck {
 public:
  CrossCheck(const Location& document, ReadResult& result)
      : document_(document), result_(result), num_read_problems_(result.problems.size()) {}

  /// Adds a problem at the first of `keys` unless `good`; silent if one of them could not be read.
  void expect(bool good, const std::vector<std::string>& keys, const std::string& text) {
    if (good) return;
    for (const std::string& key : keys)
      if (is_broken(key)) return;
    result_.add(location(keys.front()), keys.front(), text);
  }

  /// Of two keys with the same purpose, `winner` applies, as in Hugging Face: unsets and logs the other.
  template <typename T>
  void prefer(const std::string& winner, const std::string& key, std::optional<T>& loser) const {
    tell(key, fmt::format("ignored, because {} overrides it", winner));
    loser.reset();
  }

  void tell(const std::string& key, const std::string& text) const {
    log_info("{}: {}: {}", to_string(location(key)), key, text);
  }

 private:
  /// Only read errors break a key; several checks may report the same key.
  bool is_broken(const std::string& key) const {
    for (std::size_t i = 0; i < num_read_problems_; ++i) {
      const std::string& broken = result_.problems[i].key;
      if (broken == key || broken.starts_with(key + ".") || key.starts_with(broken + ".")) return true;
    }
    return false;
  }

  /// The location of the key, or of the nearest enclosing section that was given.
  Location location(std::string key) const {
    for (;;) {
      const auto found = result_.locations.find(key);
      if (found != result_.locations.end()) return found->second;
      const auto dot = key.rfind('.');
      if (dot == std::string::npos) return document_;
      key.resize(dot);
    }
  }

  Location document_;
  ReadResult& result_;
  std::size_t num_read_problems_;
};

template <typename List>
void check_names(const std::string& list_key, const List& sources, std::map<std::string, std::string>& first_use,
                 CrossCheck& check) {
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const std::string key = fmt::format("{}.{}.name", list_key, i);
    const std::string& name = sources[i].name;
    check.expect(
        is_source_name(name), {key},
        fmt::format("found {}; expected 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit",
                    quote(name)));
    const auto [use, is_new] = first_use.try_emplace(name, key);
    check.expect(is_new, {key, use->second},
                 fmt::format("found {}, which is also {}; expected a unique name", quote(name), use->second));
  }
}

template <typename List>
void check_options(const std::string& list_key, const List& sources, CrossCheck& check) {
  for (std::size_t i = 0; i < sources.size(); ++i)
    for (const data::SourceProblem& problem : data::option_problems(sources[i]))
      check.expect(false, {fmt::format("{}.{}.{}", list_key, i, problem.key)}, problem.text);
}

template <typename List>
void check_weights(const std::string& list_key, const List& sources, CrossCheck& check) {
  for (std::size_t i = 1; i < sources.size(); ++i) {
    const std::size_t without = sources[i].weight ? 0 : i;
    check.expect(sources[i].weight.has_value() == sources[0].weight.has_value(),
                 {fmt::format("{}.{}.weight", list_key, without), fmt::format("{}.{}.weight", list_key, i - without)},
                 fmt::format("found nothing; expected a weight, as another source of {} has one", list_key));
  }
}

// At every progress, some source must have a weight above 0.
void check_schedules(const std::string& list_key, const std::vector<TrainSource>& sources, CrossCheck& check) {
  for (const TrainSource& source : sources) {
    if (!source.weight) return;  // by size, or a problem of check_weights
    for (const data::WeightSchedule::Point& point : source.weight->points()) {
      const auto is_zero = [&](const TrainSource& s) { return !s.weight || s.weight->at(point.progress) == 0; };
      if (!std::ranges::all_of(sources, is_zero)) continue;
      check.expect(
          false, {list_key + ".0.weight"},
          fmt::format("found weight 0 of every source at progress {:g}; expected one above 0", point.progress));
      return;
    }
  }
}

void check_data(const RunConfig& config, Purpose purpose, CrossCheck& check) {
  std::map<std::string, std::string> first_use;
  check_names("data.train", config.data.train, first_use, check);
  check_names("data.replay", config.data.replay, first_use, check);
  check_names("data.general", config.data.general, first_use, check);
  check_names("data.eval", config.data.eval, first_use, check);

  check_options("data.train", config.data.train, check);
  check_options("data.replay", config.data.replay, check);
  check_options("data.general", config.data.general, check);
  check_options("data.eval", config.data.eval, check);

  check_weights("data.train", config.data.train, check);
  check_weights("data.replay", config.data.replay, check);
  check_weights("data.general", config.data.general, check);
  check_schedules("data.train", config.data.train, check);
  check_schedules("data.replay", config.data.replay, check);
  const auto by_size = [](const std::vector<TrainSource>& sources) {
    return !sources.empty() && !sources.front().weight;
  };
  check.expect(
      config.data.temperature == 1 || by_size(config.data.train) || by_size(config.data.replay),
      {"data.temperature", "data.train"},
      fmt::format("found {:g}, but the sources have weights; expected sources without weights, whose size it scales",
                  config.data.temperature));
  const double ratio = config.train.replay_ratio.value_or(0).max();
  check.expect(config.method != train::Method::kReplay || ratio > 0, {"train.replay_ratio", "method"},
               "found 0 together with method: replay; expected more than 0, or method: full");
  check.expect(ratio == 0 || !config.data.replay.empty(), {"data.replay", "data", "train.replay_ratio", "method"},
               fmt::format("found nothing; expected general text, which makes up {:.4g} of the training tokens ({})",
                           ratio, config.method == train::Method::kReplay ? "method: replay" : "train.replay_ratio"));
  const bool probes = purpose == Purpose::kRun && config.expands() && config.expand.needs_scores();
  const bool updates = config.unit_lr.uses_importance();
  check.expect(!config.data.general.empty() || !(probes || updates),
               {"data.general", "data", "unit_lr.policy", "expand.after"},
               fmt::format("found nothing; expected general text, on which {} is measured",
                           probes ? "layer importance"
                                  : fmt::format("unit importance (unit_lr.policy: {})", config.unit_lr.policy)));
}

void settle_alternatives(train::TrainOptions& train, const CrossCheck& check) {
  if (train.max_steps && train.num_train_epochs)
    check.prefer("train.max_steps", "train.num_train_epochs", train.num_train_epochs);
  if (!train.warmup_steps || !train.warmup_ratio) return;
  if (*train.warmup_steps > 0)
    check.prefer("train.warmup_steps", "train.warmup_ratio", train.warmup_ratio);
  else
    check.prefer("train.warmup_ratio", "train.warmup_steps", train.warmup_steps);
}

void settle_replay(RunConfig& config, const CrossCheck& check) {
  std::optional<data::WeightSchedule>& ratio = config.train.replay_ratio;
  if (ratio) return;
  if (config.method == train::Method::kReplay) {
    ratio = kReplayMethodRatio;
  } else if (config.data.replay.empty()) {
    ratio = 0;
  } else {
    ratio = kReplayRatio;
    check.tell("data.replay",
               fmt::format("{:g} % of the training tokens are replay; train.replay_ratio sets another share, or 0",
                           100 * kReplayRatio));
  }
}

// Text of data.general that can be read again, and is neither trained on already nor held out.
std::vector<TrainSource> replayed_general(const DataConfig& data) {
  std::set<std::string> others = {"-", "/dev/stdin"};
  const auto add = [&](const auto& sources) {
    for (const data::TextSource& source : sources) others.insert(source.paths.begin(), source.paths.end());
  };
  add(data.train);
  add(data.eval);
  std::vector<TrainSource> replay;
  for (const GeneralSource& source : data.general) {
    if (std::ranges::any_of(source.paths, [&](const std::string& path) { return others.contains(path); })) continue;
    TrainSource& added = replay.emplace_back();
    static_cast<data::TextSource&>(added) = source;
    constexpr std::string_view kSuffix = "-replay";
    added.name = source.name.substr(0, kMaxSourceName - kSuffix.size()).append(kSuffix);
    if (source.weight) added.weight = *source.weight;
    added.epochs = kGeneralReplayEpochs;
  }
  return replay;
}

// Where nobody says what to replay, the text that stands for general skill is it. Who weighs the training text has
// said what the mixture is.
void replay_general(RunConfig& config, const CrossCheck& check) {
  DataConfig& data = config.data;
  const auto has_weight = [](const TrainSource& source) { return source.weight.has_value(); };
  if (data.general.empty() || std::ranges::any_of(data.train, has_weight)) return;
  data.replay = replayed_general(data);
  if (data.replay.empty()) {
    check.tell("data.general",
               "not replayed, because it is also trained on, held out or a stream; data.replay takes other text");
    return;
  }
  data.replays_general = true;
  config.train.replay_ratio = kReplayRatio;
  check.tell("data.general",
             fmt::format("{:g} % of the training tokens are replay of this text, up to {:g} epochs of it; data.replay "
                         "takes other text; train.replay_ratio sets another share of that, or 0",
                         100 * kReplayRatio, kGeneralReplayEpochs));
}

void check_expand(const method::SelectionOptions& expand, const method::LayerProbeOptions& probe, train::Method method,
                  CrossCheck& check) {
  const bool by_hand = !expand.after.empty();
  check.expect(!expand.num_layers || !by_hand, {"expand.after", "expand.num_layers"},
               "found together with expand.num_layers; expected only one of them (null or [] unsets a key)");
  check.expect(!expand.trainable || !(by_hand || expand.num_layers),
               {"expand.trainable", "expand.num_layers", "expand.after"},
               "found together with another of expand.num_layers, expand.trainable and expand.after; expected only one "
               "of them (null or [] unsets a key)");
  for (std::size_t i = 1; i < expand.after.size(); ++i)
    check.expect(
        expand.after[i - 1] <= expand.after[i], {fmt::format("expand.after.{}", i), "expand.after"},
        fmt::format("found {} after {}; expected ascending layer indices", expand.after[i], expand.after[i - 1]));
  if (expand.strategy) {
    const bool manual = *expand.strategy == method::kManualLayers;
    check.expect(manual == by_hand, {"expand.strategy", "expand.after"},
                 manual ? "found manual; expected the layers in expand.after"
                        : fmt::format("found {} together with expand.after; expected manual, or no expand.after",
                                      *expand.strategy));
  }
  const bool by_lowest = !expand.strategy || method::score_use(*expand.strategy) == method::ScoreUse::kLowest;
  check.expect(
      !probe.until_separated || by_lowest || by_hand || method != train::Method::kAdept,
      {"probe.until_separated", "expand.strategy"},
      fmt::format("found true together with expand.strategy: {}; expected {}, because the probe stops once the "
                  "lowest layers are certain",
                  expand.strategy.value_or(""),
                  fmt::join(method::selection_strategies(method::ScoreUse::kLowest), " or ")));
  check.expect(
      !by_hand || expand.copies == 1, {"expand.copies", "expand.after"},
      fmt::format("found {} together with expand.after; expected 1. Repeat an index in expand.after for several copies",
                  expand.copies));
  check.expect(
      !by_hand || expand.exclude.empty(), {"expand.exclude", "expand.after"},
      "found together with expand.after; expected only one of them, because expand.after lists the layers itself");
}

void check_rest(const RunConfig& config, CrossCheck& check) {
  check.expect(config.eval.stride <= config.seq_len, {"eval.stride", "seq_len"},
               fmt::format("found {}; expected at most seq_len, which is {}", config.eval.stride, config.seq_len));
  check.expect(!(config.eval.packed && config.eval.stride > 0), {"eval.stride", "eval.packed"},
               fmt::format("found {} together with eval.packed; expected 0, because packed sequences do not overlap",
                           config.eval.stride));
  check.expect(
      config.train.eval_steps == 0 || !config.data.eval.empty(), {"train.eval_steps", "data.eval"},
      fmt::format("found {}, but data.eval is empty; expected 0, or text in data.eval", config.train.eval_steps));
  const auto normal = [](const std::string& path) { return std::filesystem::path(path + "/").lexically_normal(); };
  check.expect(config.model.empty() || normal(config.output_dir) != normal(config.model), {"output_dir", "model"},
               fmt::format("found {}, which is the model; expected a separate directory", quote(config.output_dir)));
}

// Sets a value that the method determines. A configuration may serve several methods, so another value is not an error;
// it is logged if it was given and is not the `usual` one.
void settle(std::string& value, const std::string& wanted, const std::string& usual, const char* key,
            const RunConfig& config, const ReadResult& result) {
  const auto given = result.locations.find(key);
  if (given != result.locations.end() && value != wanted && value != usual)
    log_info("{}: {}: the method {} uses {} instead of {}", to_string(given->second), key, to_string(config.method),
             wanted, value);
  value = wanted;
}

// A configuration may serve several methods, so a key that this one does not use is not an error. Logs those that were
// given and are not the default.
void tell_unused(const RunConfig& config, const ReadResult& result) {
  const Json values = to_json(config), defaults = to_json(RunConfig());
  std::vector<std::string> unused;
  for (const KeyDoc& doc : all_keys()) {
    if ((doc.methods & bit_of(config.method)) != 0 || !result.locations.contains(doc.key)) continue;
    std::string pointer = "/" + doc.key;
    std::replace(pointer.begin(), pointer.end(), '.', '/');
    if (values.at(Json::json_pointer(pointer)) != defaults.at(Json::json_pointer(pointer))) unused.push_back(doc.key);
  }
  if (!unused.empty())
    log_info("{}: the method {} does not use {}", to_string(result.locations.at(unused.front())),
             to_string(config.method), fmt::join(unused, ", "));
}

void expand_home(std::string& path, const std::string& key, CrossCheck& check) {
  if (path != "~" && !path.starts_with("~/")) return;
  const char* home = std::getenv("HOME");
  const bool has_home = home != nullptr && *home != '\0';
  check.expect(has_home, {key}, fmt::format("found {}, but $HOME is not set; expected a path without ~", quote(path)));
  if (has_home) path.replace(0, 1, home);
}

template <typename List>
void expand_homes(List& sources, const std::string& key, CrossCheck& check) {
  for (std::size_t i = 0; i < sources.size(); ++i)
    for (std::string& path : sources[i].paths) expand_home(path, fmt::format("{}.{}.path", key, i), check);
}

}  // namespace

std::vector<LengthProblem> length_problems(const train::TrainOptions& train, std::optional<std::int64_t> steps) {
  std::vector<LengthProblem> problems;
  const std::string length = train.max_steps ? "train.max_steps" : "the number of steps of train.num_train_epochs";
  if (steps && static_cast<double>(*steps) > kSteps.max)
    problems.push_back(
        {{"train.num_train_epochs"}, fmt::format("amounts to {} steps; expected at most {:.0f}", *steps, kSteps.max)});
  if (steps && train.warmup_steps && *train.warmup_steps > *steps)
    problems.push_back(
        {{"train.warmup_steps", "train.max_steps"},
         fmt::format("found {}; expected at most {}, which is {}", *train.warmup_steps, length, *steps)});
  double warmup = train.warmup_ratio.value_or(0);
  if (train.warmup_steps) warmup = steps ? static_cast<double>(*train.warmup_steps) / static_cast<double>(*steps) : 0;
  if (train.lr_scheduler == optim::ScheduleKind::kWsd && warmup <= 1 && warmup + train.decay_ratio > 1)
    problems.push_back(
        {{"train.decay_ratio", "train.lr_scheduler", "train.warmup_ratio", "train.warmup_steps", "train.max_steps"},
         fmt::format("found {}; expected warm-up and decay to sum to at most 1 (the warm-up is {:.4g})",
                     train.decay_ratio, warmup)});
  return problems;
}

bool is_source_name(std::string_view name) {
  const auto is_alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  if (name.empty() || name.size() > kMaxSourceName || !is_alphanumeric(name.front())) return false;
  return std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_alphanumeric(c) || c == '.' || c == '_' || c == '-'; });
}

void check_and_resolve(RunConfig& config, Purpose purpose, const Location& document, ReadResult& result) {
  CrossCheck check(document, result);
  method::SelectionOptions& expand = config.expand;
  expand_home(config.model, "model", check);
  expand_home(config.output_dir, "output_dir", check);
  expand_homes(config.data.train, "data.train", check);
  expand_homes(config.data.replay, "data.replay", check);
  expand_homes(config.data.general, "data.general", check);
  expand_homes(config.data.eval, "data.eval", check);
  tell_unused(config, result);
  if (config.method == train::Method::kLlamaPro && expand.after.empty()) {
    if (!expand.strategy) expand.strategy = method::kUniformLayers;
    settle(*expand.strategy, method::kUniformLayers, "", "expand.strategy", config, result);
  }
  if (config.method != train::Method::kAdept)
    settle(config.unit_lr.policy, method::kUniformRates, method::UnitLrOptions().policy, "unit_lr.policy", config,
           result);
  if (!config.unit_lr.ema && config.method == train::Method::kAdept)
    config.unit_lr.ema = method::default_ema(config.unit_lr.policy);
  const bool replay_is_open =
      !config.train.replay_ratio && config.data.replay.empty() && config.method != train::Method::kReplay;
  settle_replay(config, check);
  check_expand(expand, config.probe, config.method, check);
  if (!expand.strategy && config.expands())
    expand.strategy = expand.after.empty() ? method::kLowestLayers : method::kManualLayers;
  check_data(config, purpose, check);
  train::TrainOptions& train = config.train;
  settle_alternatives(train, check);
  if (!train.warmup_steps && !train.warmup_ratio) train.warmup_ratio = kDefaultWarmupRatio;
  if (!train.max_steps && !train.num_train_epochs) train.num_train_epochs = kDefaultEpochs;
  for (const LengthProblem& problem : length_problems(train, train.max_steps))
    check.expect(false, problem.keys, problem.text);
  check_rest(config, check);

  if (config.expands() && !expand.num_layers && !expand.trainable && expand.after.empty())
    expand.num_layers = kDefaultNumLayers;
  if (!config.lora.alpha && config.method == train::Method::kLora)
    config.lora.alpha = 2.0 * static_cast<double>(config.lora.rank);
  if (replay_is_open && result.problems.empty()) replay_general(config, check);  // after the checks, which name keys
}

}  // namespace adept::config
