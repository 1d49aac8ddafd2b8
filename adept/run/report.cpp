#include "adept/run/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "adept/core/progress.h"
#include "adept/data/sequences.h"
#include "adept/data/source_counts.h"

namespace adept::run {
namespace {

std::int64_t peak_memory(const std::vector<StageRecord>& stages) {
  std::int64_t peak = 0;
  for (const StageRecord& stage : stages) peak = std::max(peak, stage.peak_rss_bytes);
  return peak;
}

std::string loss_row(const config::EvalSource& set, const RunResults& results) {
  const eval::Perplexity& after = results.after.at(set.name);
  const std::string label = fmt::format("{} ({})", set.name, config::to_string(set.role));
  const auto before = results.before.find(set.name);
  if (before == results.before.end())
    return fmt::format("  {:<28} {:>8} {:>8.4f} {:>9} {:>9} {:>9.3f}\n", label, "", after.loss, "", "",
                       after.perplexity);
  const eval::Perplexity& base = before->second;
  return fmt::format("  {:<28} {:>8.4f} {:>8.4f} {:>+9.4f} {:>9.3f} {:>9.3f} {:>+8.2f} %\n", label, base.loss,
                     after.loss, after.loss - base.loss, base.perplexity, after.perplexity,
                     100.0 * (after.perplexity / base.perplexity - 1.0));
}

}  // namespace

Json results_json(const config::RunConfig& config, const RunResults& results, const std::vector<StageRecord>& stages) {
  Json json = {{"method", std::string(config::to_string(config.method))},
               {"learning_rate", config.train.learning_rate}};
  json.update(results.training);
  for (const config::EvalSource& set : config.data.eval) {
    if (const auto before = results.before.find(set.name); before != results.before.end()) {
      json["base_" + set.name + "_loss"] = before->second.loss;
      json["base_" + set.name + "_perplexity"] = before->second.perplexity;
      json["base_" + set.name + "_bits_per_byte"] = before->second.bits_per_byte;
    }
    const eval::Perplexity& after = results.after.at(set.name);
    json["eval_" + set.name + "_loss"] = after.loss;
    json["eval_" + set.name + "_perplexity"] = after.perplexity;
    json["eval_" + set.name + "_bits_per_byte"] = after.bits_per_byte;
    json["eval_" + set.name + "_text"] = data::to_json(after.text);
  }
  for (const StageRecord& stage : stages) json["seconds_" + stage.name] = stage.seconds;
  json["peak_rss_bytes"] = peak_memory(stages);
  return json;
}

std::string results_table(const config::RunConfig& config, const RunResults& results,
                          const std::vector<StageRecord>& stages) {
  std::string table = fmt::format("\n  {:<28} {:>8} {:>8} {:>9} {:>9} {:>9} {:>10}\n", "held-out text", "loss", "loss",
                                  "change", "ppl", "ppl", "change");
  table += fmt::format("  {:<28} {:>8} {:>8} {:>9} {:>9} {:>9}\n", "", "base", "trained", "", "base", "trained");
  for (const config::EvalSource& set : config.data.eval) table += loss_row(set, results);
  table += "\n";
  for (const config::EvalSource& set : config.data.eval)
    table += fmt::format("  {:<14}{}: {}\n", &set == &config.data.eval.front() ? "measured on" : "", set.name,
                         data::describe(results.after.at(set.name).text));
  const Json& t = results.training;
  const auto trained = t.at("trained_parameters").get<std::int64_t>();
  const auto all = t.at("all_parameters").get<std::int64_t>();
  table += fmt::format("  method        {}\n", config::to_string(config.method));
  table += fmt::format("  trained       {} of {} parameters ({:.1f} %)\n", format_count(trained), format_count(all),
                       100.0 * static_cast<double>(trained) / static_cast<double>(all));
  table += fmt::format("  training      {} steps, {} tokens, {} tokens/s ({:.0f} % SOL)\n",
                       format_count(t.at("train_steps").get<std::int64_t>()),
                       format_count(t.at("train_tokens").get<std::int64_t>()),
                       format_count(static_cast<std::int64_t>(t.at("train_tokens_per_second").get<double>())),
                       100 * t.at("speed_of_light").get<double>());
  if (const auto skipped = t.at("nonfinite_steps").get<std::int64_t>(); skipped > 0)
    table += fmt::format("  skipped       {} updates whose loss or gradient was not finite\n", skipped);
  table += "  time         ";
  double total = 0;
  for (const StageRecord& stage : stages) {
    table += fmt::format(" {} {}{},", stage.name, format_duration(stage.seconds), stage.skipped ? " (kept)" : "");
    total += stage.seconds;
  }
  table += fmt::format(" in all {}\n", format_duration(total));
  table += fmt::format("  peak memory   {}\n", data::format_bytes(peak_memory(stages)));
  return table;
}

}  // namespace adept::run
