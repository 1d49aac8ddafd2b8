#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/progress.h"
#include "adept/dist/process_group.h"
#include "adept/eval/evaluate.h"
#include "adept/io/atomic_file.h"
#include "adept/io/record.h"
#include "adept/model/load.h"
#include "adept/run/measure.h"
#include "adept/run/model_context.h"
#include "adept/run/same_texts.h"
#include "adept/run/text.h"
#include "cli/commands.h"
#include "cli/job.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct EvalOptions {
  std::string model, out;
  DataOptions data;
  config::Compute compute;
  std::int64_t seq_len = config::kDefaultSeqLen;
  eval::EvalOptions scoring{.max_tokens = 0};
  bool no_document_mask = false;
  JobOptions job;
};

void check_options(const EvalOptions& options) {
  if (options.no_document_mask && !options.scoring.packed)
    throw ConfigError(
        "adept eval: found --no-document-mask without --packed; expected both, because only packed documents share a "
        "sequence.");
  if (options.scoring.packed && options.scoring.stride > 0)
    throw ConfigError(
        "adept eval: found --packed and --stride {}; expected one of them, because packed sequences do not overlap.",
        options.scoring.stride);
  if (options.scoring.stride > options.seq_len)
    throw ConfigError("adept eval: found --stride {}; expected at most {}, the value of --seq-len.",
                      options.scoring.stride, options.seq_len);
  sources(options.data);  // throws for bad ones
}

// A column for each metric of the sets.
void print_results(const eval::Results& results) {
  std::vector<std::string> metrics;
  for (const auto& [name, result] : results)
    for (const eval::Metric& metric : result.metrics)
      if (std::find(metrics.begin(), metrics.end(), metric.name) == metrics.end()) metrics.push_back(metric.name);
  const auto width = [](const std::string& metric) { return std::max<std::size_t>(10, metric.size() + 2); };
  std::string table = fmt::format("{:<24}", "dataset");
  for (const std::string& metric : metrics) table += fmt::format(" {:>{}}", metric, width(metric));
  table += fmt::format(" {:>12} {:>10}\n", "tokens", "documents");
  for (const auto& [name, result] : results) {
    table += fmt::format("{:<24}", name);
    for (const std::string& metric : metrics) {
      const eval::Metric* found = result.find(metric);
      table += found == nullptr ? std::string(width(metric) + 1, ' ')
                                : fmt::format(" {:>{}.4f}", found->value, width(metric));
    }
    table += fmt::format(" {:>12} {:>10}\n", format_count(result.tokens), format_count(result.documents));
  }
  for (const auto& [name, result] : results)
    if (result.text.is_sample) table += fmt::format("{}: {}\n", name, data::describe(result.text));
  fmt::print("{}", table);
}

// Every process of a job does it; the first one writes the results.
void run(const CLI::App& command, EvalOptions& options) {
  join_job(options.job, options.compute.device);
  check_data(sources(options.data), options.out);
  std::optional<io::AtomicFile> out;  // opened now, so an unwritable path fails at once
  if (!options.out.empty() && dist::is_first()) out.emplace(options.out, io::SpecialFile::kWriteThrough);
  const run::TextModel model = run::load_text_model(options.model);
  check_output_is_not_of_model(options.out, model.dir);
  run::init_compute_to_measure(options.compute, model.dir);
  require_same_command(command, options.compute);
  run::warn_of_long_sequences(model, options.seq_len);
  model::check_weights(model.config, model::open_weights(model.config, model.dir));  // before processing the text
  if (options.scoring.packed) model.eos();
  const auto datasets = run::tokenize_for_command(model, sources(options.data));
  run::print_counts(datasets);
  run::require_same_texts({{"--data", datasets}});
  std::vector<eval::EvalSet> sets;
  for (const data::TokenDataset& dataset : datasets) {
    sets.push_back({dataset.name(), run::scoring_sequences(model, dataset, options.scoring, options.seq_len,
                                                           !options.no_document_mask)});
    eval::require_targets(sets.back());
  }
  run::MeasuredModel measured(model.dir, io::model_identity(io::WeightFiles::open(model.dir)), options.compute,
                              options.job.dist.shard_base);
  const auto results = run::evaluate_sets(measured, sets, options.scoring.batch_size, run::ResultCache::open());
  for (const auto& [name, result] : results) eval::require_finite(name, result);
  dist::world().on_first([&] {
    if (out) {
      out->write(io::record_text(eval::results_to_json(results)));
      out->commit();
    }
    print_results(results);
  });
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command =
      app.add_subcommand("eval", fmt::format("Measure a model on text: {}", fmt::join(eval::metric_names(), ", ")));
  add_model_option(*command, options->model);
  add_data_options(*command, options->data);
  command->add_option("--out", options->out, "Output file for the results (JSON)")->type_name("FILE");
  add_seq_len_option(*command, options->seq_len);
  add_count_option(*command, "--stride", options->scoring.stride, 0, kMaxSequence,
                   "Stride between the windows of a long document; 0 equals --seq-len (no overlap)");
  command->add_flag("--packed", options->scoring.packed,
                    "Score packed sequences (documents joined by EOS), as in training");
  command->add_flag(
      "--no-document-mask", options->no_document_mask,
      "With --packed: let tokens attend to earlier documents in their sequence, like data.document_mask: false");
  add_max_tokens_option(*command, options->scoring.max_tokens,
                        "Sample size per dataset, in tokens (at least one sequence); 0 uses all");
  add_batch_size_option(*command, options->scoring.batch_size);
  add_compute_options(*command, options->compute);
  add_job_options(*command, options->job);
  command->callback([options, command] {
    check_options(*options);
    if (!ran_in_processes(options->job.nproc)) run(*command, *options);
  });
}

}  // namespace adept::cli
