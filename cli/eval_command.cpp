#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>

#include "adept/core/error.h"
#include "adept/eval/perplexity.h"
#include "adept/io/atomic_file.h"
#include "adept/io/record.h"
#include "adept/model/load.h"
#include "adept/run/measure.h"
#include "adept/run/model_context.h"
#include "adept/run/text.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct EvalOptions {
  std::string model, out;
  DataOptions data;
  config::Compute compute;
  std::int64_t batch_size = 8;
  run::ScoringOptions scoring;
};

void print_results(const std::map<std::string, eval::Perplexity>& results) {
  fmt::print("{:<24} {:>10} {:>12} {:>14} {:>12} {:>10}\n", "dataset", "loss", "perplexity", "bits_per_byte", "tokens",
             "documents");
  for (const auto& [name, r] : results)
    fmt::print("{:<24} {:>10.4f} {:>12.4f} {:>14.4f} {:>12} {:>10}\n", name, r.loss, r.perplexity, r.bits_per_byte,
               format_count(r.tokens), format_count(r.documents));
  for (const auto& [name, r] : results)
    if (r.text.is_sample) fmt::print("{}: {}\n", name, data::describe(r.text));
}

void run(EvalOptions& options) {
  if (options.scoring.packed && options.scoring.stride > 0)
    throw ConfigError(
        "adept eval: found --packed and --stride {}; expected one of them, as packed text has no overlap.",
        options.scoring.stride);
  if (options.scoring.stride > options.scoring.seq_len)
    throw ConfigError("adept eval: found --stride {}; expected at most {}, the value of --seq-len.",
                      options.scoring.stride, options.scoring.seq_len);
  check_data(sources(options.data), options.out);
  std::optional<io::AtomicFile> out;  // opened now, so that a place that cannot be written is an error at once
  if (!options.out.empty()) out.emplace(options.out, io::SpecialFile::kWriteThrough);
  const run::TextModel model = run::load_text_model(options.model);
  check_output_is_not_of_model(options.out, model.dir);
  run::init_compute_to_measure(options.compute, model.dir);
  run::warn_of_long_sequences(model, options.scoring.seq_len);
  model::check_weights(model.config, model::open_weights(model.config, model.dir));  // before the work on the text
  if (options.scoring.packed) model.eos();
  std::vector<data::TokenDataset> datasets;
  for (const config::Source& source : sources(options.data)) datasets.push_back(run::tokenize_source(model, source));
  run::print_counts(datasets);
  std::vector<train::EvalSet> sets;
  for (const data::TokenDataset& dataset : datasets) {
    sets.push_back({dataset.name(), run::scoring_sequences(model, dataset, options.scoring)});
    eval::require_targets(dataset.name(), sets.back().sequences);
  }
  run::MeasuredModel measured(model.dir, io::model_identity(io::WeightFiles::open(model.dir)), options.compute);
  const auto results = run::measure_perplexity(measured, sets, options.batch_size, run::ResultCache::open());
  for (const auto& [name, result] : results) eval::require_finite(name, result);
  if (out) {
    out->write(io::record_text(eval::results_to_json(results)));
    out->commit();
  }
  print_results(results);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand("eval", "Measure loss, perplexity and bits per byte on text");
  add_model_option(*command, options->model);
  add_data_options(*command, options->data);
  command->add_option("--out", options->out, "File for the results (JSON)")->type_name("FILE");
  add_seq_len_option(*command, options->scoring.seq_len);
  add_count_option(*command, "--stride", options->scoring.stride, 0, kMaxSequence,
                   "Step between the windows of a long document; 0 = --seq-len, no overlap");
  command->add_flag("--packed", options->scoring.packed, "Score documents joined by EOS, as training sees them");
  add_max_tokens_option(*command, options->scoring.max_tokens,
                        "Sample of each set that is scored, at least one sequence; 0 = all");
  add_batch_size_option(*command, options->batch_size);
  add_compute_options(*command, options->compute);
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
