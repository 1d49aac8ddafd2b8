#include "adept/run/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "adept/core/progress.h"
#include "adept/data/sequences.h"

namespace adept::run {
namespace {

std::int64_t peak_memory(const std::vector<StageRecord>& stages) {
  std::int64_t peak = 0;
  for (const StageRecord& stage : stages) peak = std::max(peak, stage.peak_rss_bytes);
  return peak;
}

// A metric in the table.
struct Column : eval::MetricColumn {
  std::string metric;
  int width;
  int width_of_change() const { return change_in_percent ? 10 : 9; }
};

// In the order of the table: the metrics of all sets, without duplicates.
std::vector<Column> columns_of(const eval::Results& results) {
  std::vector<Column> columns;
  for (const auto& [set, result] : results)
    for (const eval::Metric& metric : result.metrics) {
      const auto is_same = [&](const Column& column) { return column.metric == metric.name; };
      const eval::MetricColumn column = eval::column_of(metric.name);
      if (column.title.empty() || std::any_of(columns.begin(), columns.end(), is_same)) continue;
      const int least = column.change_in_percent ? 9 : 8;
      columns.push_back({column, metric.name, std::max(least, static_cast<int>(column.title.size()))});
    }
  return columns;
}

std::string cell(const Column& column, const eval::Result* result) {
  const eval::Metric* metric = result == nullptr ? nullptr : result->find(column.metric);
  return metric == nullptr ? std::string(static_cast<std::size_t>(column.width), ' ')
                           : fmt::format("{:>{}.{}f}", metric->value, column.width, column.decimals);
}

std::string change(const Column& column, const eval::Result* before, const eval::Result& after) {
  const eval::Metric* base = before == nullptr ? nullptr : before->find(column.metric);
  const eval::Metric* now = after.find(column.metric);
  if (base == nullptr || now == nullptr) return std::string(static_cast<std::size_t>(column.width_of_change()), ' ');
  if (column.change_in_percent) return fmt::format("{:>+8.2f} %", 100.0 * (now->value / base->value - 1.0));
  return fmt::format("{:>+{}.{}f}", now->value - base->value, column.width_of_change(), column.decimals);
}

std::string without_trailing_blanks(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

std::string header(const std::vector<Column>& columns) {
  std::string first = fmt::format("  {:<28}", "held-out text"), second = fmt::format("  {:<28}", "");
  for (const Column& column : columns) {
    first += fmt::format(" {:>{}} {:>{}} {:>{}}", column.title, column.width, column.title, column.width, "change",
                         column.width_of_change());
    second += fmt::format(" {:>{}} {:>{}} {:>{}}", "base", column.width, "trained", column.width, "",
                          column.width_of_change());
  }
  return without_trailing_blanks(first) + without_trailing_blanks(second);
}

std::string row(const config::EvalSource& set, const std::vector<Column>& columns, const RunResults& results) {
  const auto found = results.before.find(set.name);
  const eval::Result* before = found == results.before.end() ? nullptr : &found->second;
  const eval::Result& after = results.after.at(set.name);
  std::string line = fmt::format("  {:<28}", fmt::format("{} ({})", set.name, config::to_string(set.role)));
  for (const Column& column : columns)
    line += fmt::format(" {} {} {}", cell(column, before), cell(column, &after), change(column, before, after));
  return without_trailing_blanks(line);
}

}  // namespace

Json results_json(const config::RunConfig& config, const RunResults& results, const std::vector<StageRecord>& stages) {
  Json json = {{"method", std::string(config::to_string(config.method))},
               {"learning_rate", config.train.learning_rate}};
  json.update(results.training);
  for (const config::EvalSource& set : config.data.eval) {
    if (const auto before = results.before.find(set.name); before != results.before.end())
      for (const eval::Metric& metric : before->second.metrics)
        json["base_" + set.name + "_" + metric.name] = metric.value;
    const eval::Result& after = results.after.at(set.name);
    for (const eval::Metric& metric : after.metrics) json["eval_" + set.name + "_" + metric.name] = metric.value;
    json["eval_" + set.name + "_text"] = data::to_json(after.text);
  }
  for (const StageRecord& stage : stages) {
    json["seconds_" + stage.name] = stage.seconds;
    if (!stage.memory.is_null()) json["memory_bytes_" + stage.name] = stage.memory;
  }
  json["peak_rss_bytes"] = peak_memory(stages);
  return json;
}

std::string results_table(const config::RunConfig& config, const RunResults& results,
                          const std::vector<StageRecord>& stages) {
  const std::vector<Column> columns = columns_of(results.after);
  std::string table = columns.empty() ? "" : "\n" + header(columns);
  for (const config::EvalSource& set : config.data.eval) table += row(set, columns, results);
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
  const Json& sources = t.at("train_sources");
  for (const auto& [name, use] : sources.items())
    table += fmt::format(
        "  {:<14}{}: {} tokens in {} sequences, {:.2f} epochs{}\n", name == sources.begin().key() ? "trained on" : "",
        name, format_count(use.at("tokens").get<std::int64_t>()), format_count(use.at("sequences").get<std::int64_t>()),
        use.at("epochs").get<double>(), use.contains("removed") ? " (a source of an earlier mixture)" : "");
  if (const auto skipped = t.at("nonfinite_steps").get<std::int64_t>(); skipped > 0)
    table += fmt::format("  skipped       {} updates with a non-finite loss or gradient\n", skipped);
  table += "  time         ";
  double total = 0;
  for (const StageRecord& stage : stages) {
    table += fmt::format(" {} {}{},", stage.name, format_duration(stage.seconds), stage.skipped ? " (kept)" : "");
    total += stage.seconds;
  }
  table += fmt::format(" total {}\n", format_duration(total));
  table += fmt::format("  peak memory   {}\n", format_bytes(peak_memory(stages)));
  return table;
}

}  // namespace adept::run
