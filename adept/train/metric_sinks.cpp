#include "adept/train/metric_sinks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "adept/core/error.h"
#include "adept/io/text_quote.h"
#include "adept/train/tensorboard.h"
#include "adept/train/trainer_log.h"

namespace adept::train {
namespace {

struct SinkKind {
  const char* name;
  std::unique_ptr<MetricSink> (*make)(const SessionStart&);
};

// Sinks that train.report_to can select.
constexpr SinkKind kSinks[] = {
    {"tensorboard",
     [](const SessionStart& start) -> std::unique_ptr<MetricSink> {
       return std::make_unique<TensorBoardSink>(start.run_dir / kTensorBoardFolder, start.step);
     }},
};

const SinkKind* find_sink(const std::string& name) {
  const auto* found = std::find_if(std::begin(kSinks), std::end(kSinks), [&](const auto& s) { return s.name == name; });
  return found == std::end(kSinks) ? nullptr : found;
}

}  // namespace

std::vector<std::unique_ptr<MetricSink>> make_metric_sinks(const std::vector<std::string>& names,
                                                           const SessionStart& start) {
  std::vector<std::unique_ptr<MetricSink>> sinks;
  sinks.push_back(std::make_unique<JsonlFile>(start.run_dir / kTrainerLog, "current_steps", start.step,
                                              start.evaluates_at_start ? kEvaluationPrefix : ""));
  for (const SinkKind& sink : kSinks)
    if (std::find(names.begin(), names.end(), sink.name) != names.end()) sinks.push_back(sink.make(start));
  return sinks;
}

std::vector<std::string> metric_sink_names() {
  std::vector<std::string> names;
  for (const SinkKind& sink : kSinks) names.emplace_back(sink.name);
  return names;
}

void check_metric_sinks(const std::vector<std::string>& names) {
  for (const std::string& name : names)
    if (find_sink(name) == nullptr)
      throw ConfigError("train.report_to: found {}; expected {}, or [] for trainer_log.jsonl only.", io::quote(name),
                        fmt::join(metric_sink_names(), " or "));
}

ConsoleSink::ConsoleSink(std::int64_t step, std::int64_t total_steps)
    // Counts only steps: including the time of probes and evaluations would distort the rate.
    : progress_("train", total_steps, Progress::Options{.counts = "steps", .rate_unit = "", .start = step}) {}

void ConsoleSink::log(const Json& values, std::int64_t step) {
  const auto number = [&](const char* name) { return values.at(name).get<double>(); };
  speed_ = fmt::format("{} tok/s ({:.0f} % SOL)", format_count(static_cast<std::int64_t>(number("throughput"))),
                       100 * number("speed_of_light"));
  progress_.update(step, 0,
                   fmt::format("{}  loss {:.4f}  grad {:.2f}  lr {:.2e}", speed_, number("loss"), number("grad_norm"),
                               number("lr")));
}

void ConsoleSink::finish(double loss) {
  progress_.finish(fmt::format("{}{}loss {:.4f}", speed_, speed_.empty() ? "" : "  ", loss));
}

}  // namespace adept::train
