#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/io/model_identity.h"
#include "adept/method/beyond/dial.h"
#include "adept/run/measure.h"
#include "adept/run/model_context.h"
#include "adept/run/text.h"
#include "adept/run/token_cache.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

constexpr double kDefaultRise = 0.01;  // nats per token: about 1 % of the perplexity

struct DialOptions {
  std::string model, out, alpha;
  std::vector<std::string> general, domain;
  DataOptions data;
  std::optional<double> max_general_rise, general_weight;
  std::int64_t points = 11, seq_len = config::kDefaultSeqLen, max_tokens = 16384, batch_size = 8;
  bool per_copy = false, force = false;
  config::Compute compute;
};

void print_dial(const method::Dial& dial, const method::Expansion& expansion) {
  const method::DialPoint& base = dial.curve.front();
  fmt::print("{:>6} {:>13} {:>9} {:>12} {:>9}\n", "alpha", "general loss", "change", "domain loss", "change");
  const auto row = [&](const std::string& name, const method::DialPoint& p) {
    fmt::print("{:>6} {:>13.4f} {:>+9.4f} {:>12.4f} {:>+9.4f}\n", name, p.general_loss,
               p.general_loss - base.general_loss, p.domain_loss, p.domain_loss - base.domain_loss);
  };
  for (const method::DialPoint& point : dial.curve) row(fmt::format("{:.2f}", point.alphas.front()), point);
  row("chosen", dial.chosen);
  for (std::size_t c = 0; c < expansion.layers.size(); ++c)
    fmt::print("alpha {:.2f}  copy of layer {} (layer {})\n", dial.chosen.alphas[c], expansion.layers[c].source,
               expansion.layers[c].index);
}

/// "0.4", or "0.4,1,0" for each copy.
std::vector<double> parse_alphas(const std::string& text, std::size_t num_copies) {
  std::vector<double> alphas = parse_numbers(
      "--alpha", text, [](double alpha) { return alpha >= 0 && alpha <= 1; },
      "a number from 0 to 1, or one for each copy such as 0.4,1,0");
  if (alphas.size() == 1) alphas.resize(num_copies, alphas.front());
  if (alphas.size() != num_copies)
    throw ConfigError("--alpha {}: found {} numbers; expected one, or one for each of the {} copies.", text,
                      alphas.size(), num_copies);
  return alphas;
}

void check_options(const DialOptions& options) {
  if (options.max_general_rise && options.general_weight)
    throw ConfigError("adept dial: found both --max-general-rise and --general-weight; expected one of them.");
  for (const auto& [name, value] : {std::pair{"--max-general-rise", options.max_general_rise},
                                    std::pair{"--general-weight", options.general_weight}})
    if (value && !(std::isfinite(*value) && *value >= 0))
      throw ConfigError("adept dial: {}: found {}; expected a number >= 0.", name, *value);
  const bool has_texts = !options.general.empty() && !options.domain.empty();
  if (options.alpha.empty() && !has_texts)
    throw ConfigError(
        "adept dial: found neither --alpha nor both texts; expected --general and --domain to search a scale, or "
        "--alpha to set it.");
  if (!options.alpha.empty() && (!options.general.empty() || !options.domain.empty()))
    throw ConfigError(
        "adept dial: found --alpha together with --general or --domain; expected a scale, or texts to search it on.");
  if (!options.alpha.empty() && (options.max_general_rise || options.general_weight || options.per_copy))
    throw ConfigError(
        "adept dial: found --alpha together with --max-general-rise, --general-weight or --per-copy; expected a scale, "
        "or options for the search.");
}

void run(DialOptions& options) {
  check_options(options);
  const std::vector<data::TextSource> general_sources = sources(options.data, "--general", options.general);
  const std::vector<data::TextSource> domain_sources = sources(options.data, "--domain", options.domain);
  std::vector<data::TextSource> all_sources = general_sources;
  all_sources.insert(all_sources.end(), domain_sources.begin(), domain_sources.end());
  check_data(all_sources, options.out);
  const run::TextModel model = run::load_text_model(options.model);
  const method::Expansion expansion = method::read_expansion(model.dir);
  std::vector<std::filesystem::path> inputs = {model.dir};
  for (const data::TextSource& source : all_sources)
    inputs.insert(inputs.end(), source.paths.begin(), source.paths.end());
  check_output_directory(options.out, inputs, options.force);
  if (std::filesystem::exists(model.dir / method::kDialRecord))
    log_warning("{}: is already dialed; alpha 1 is the model as it is now, not as it was trained.", model.dir.string());
  const auto on_existing = options.force ? io::OnExisting::kReplace : io::OnExisting::kFail;
  const io::ModelIdentity identity = io::model_identity(io::WeightFiles::open(model.dir));
  Json record = {{"model", io::to_json(identity)}};
  if (!options.alpha.empty()) {
    const std::vector<double> alphas = parse_alphas(options.alpha, expansion.layers.size());
    record["chosen"] = {{"alphas", alphas}};
    method::export_dialed(model.dir, options.out, expansion, alphas, record, on_existing);
    fmt::print("{}\n", options.out);
    return;
  }
  run::init_compute(options.compute);
  run::warn_of_long_sequences(model, options.seq_len);
  run::MeasuredModel measured(model.dir, identity, options.compute);
  const auto batches = [&](const char* kind, const std::vector<data::TextSource>& texts) {
    std::vector<data::TokenDataset> datasets;
    for (const data::TextSource& source : texts) {
      datasets.push_back(run::tokenize_source(model, source));
      record["texts"][kind][source.name] = datasets.back().fingerprint();
    }
    run::print_counts(datasets);
    const auto sets = run::probe_sequences(datasets, options.seq_len, options.max_tokens);
    run::tell_samples("dial", sets);
    record["samples"][kind] = run::samples_json(sets);
    return run::to_batches(sets, options.batch_size, measured.device());
  };
  const auto general = batches("general", general_sources), domain = batches("domain", domain_sources);
  method::DialOptions dial_options = {.points = static_cast<int>(options.points),
                                      .max_general_rise = options.max_general_rise,
                                      .general_weight = options.general_weight,
                                      .per_copy = options.per_copy};
  if (!options.general_weight) dial_options.max_general_rise = options.max_general_rise.value_or(kDefaultRise);
  const method::Dial dial =
      run::measure_dial(measured, expansion, general, domain, dial_options, run::ResultCache::open());
  const auto is_as_base = [&](const method::DialPoint& point) {
    return point.general_loss == dial.curve.front().general_loss && point.domain_loss == dial.curve.front().domain_loss;
  };
  if (std::all_of(dial.curve.begin(), dial.curve.end(), is_as_base))
    log_warning("{}: the losses are the same at every alpha; the copies are not trained.", model.dir.string());
  record["dtype"] = std::string(to_string(options.compute.decided_dtype()));
  record["max_general_rise"] = dial_options.max_general_rise ? Json(*dial_options.max_general_rise) : Json();
  record["general_weight"] = dial_options.general_weight ? Json(*dial_options.general_weight) : Json();
  record.update(method::to_json(dial, expansion));
  method::export_dialed(model.dir, options.out, expansion, dial.chosen.alphas, record, on_existing);
  print_dial(dial, expansion);
  fmt::print("{}\n", options.out);
}

}  // namespace

void add_dial_command(CLI::App& app) {
  auto options = std::make_shared<DialOptions>();
  CLI::App* command = app.add_subcommand(
      "dial", "Scale the contribution of a trained model's copies, from 0 (the base) to 1 (the trained model)");
  add_model_option(*command, options->model);
  command
      ->add_option("--general", options->general,
                   "General text, on which the loss increase is limited; same form as --data of adept probe")
      ->type_name("[NAME=]PATH");
  command->add_option("--domain", options->domain, "Domain text, on which the loss is minimized")
      ->type_name("[NAME=]PATH");
  command->add_option("--alpha", options->alpha, "Use this scale, or one scale per copy, instead of searching for one")
      ->type_name("0.4|0.4,1,0");
  add_text_options(*command, options->data);
  command->add_option("--out", options->out, "Output directory for the dialed model")->required()->type_name("DIR");
  command
      ->add_option("--max-general-rise", options->max_general_rise,
                   "Choose the largest alpha that raises the general loss by at most this much over the base, in nats "
                   "per token (default: 0.01)")
      ->type_name("NATS");
  command->add_option("--general-weight", options->general_weight, "Minimize domain loss + W * general loss instead")
      ->type_name("W");
  command->add_flag("--per-copy", options->per_copy,
                    "Then search for a separate alpha per copy, starting from the shared one");
  add_count_option(*command, "--points", options->points, 2, 1001, "Number of points on the curve, including 0 and 1");
  add_seq_len_option(*command, options->seq_len);
  add_max_tokens_option(
      *command, options->max_tokens,
      "Sample size of each text (general, domain), in tokens, split evenly among its sources; 0 uses all");
  add_batch_size_option(*command, options->batch_size);
  add_compute_options(*command, options->compute);
  command->add_flag("--force", options->force, "Replace --out if it exists");
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
