#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <memory>
#include <optional>

#include "adept/core/error.h"
#include "adept/core/nearest_name.h"
#include "adept/dist/process_group.h"
#include "adept/io/atomic_file.h"
#include "adept/io/model_identity.h"
#include "adept/io/record.h"
#include "adept/method/beyond/statistics.h"
#include "adept/method/expansion.h"
#include "adept/method/importance.h"
#include "adept/method/options.h"
#include "adept/method/selection.h"
#include "adept/run/expansion_plan.h"
#include "adept/run/measure.h"
#include "adept/run/model_context.h"
#include "adept/run/same_texts.h"
#include "adept/run/text.h"
#include "cli/commands.h"
#include "cli/job.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct ProbeOptions {
  std::string model, out, weights;
  std::vector<std::string> domain;
  DataOptions data;
  config::Compute compute;
  method::LayerProbeOptions measure;
  std::int64_t seq_len = config::kDefaultSeqLen, layers = 0;
  JobOptions job;
};

/// One for each source of --data.
std::vector<double> parse_weights(const std::string& text, std::size_t num_sources) {
  if (text.empty()) return {};
  const std::vector<double> weights = parse_numbers(
      "--weights", text, [](double weight) { return weight > 0 && weight <= 1e6; },
      "a number above 0, at most 1e6, for each source of --data, such as 2,1");
  if (weights.size() != num_sources)
    throw ConfigError("--weights {}: found {} numbers; expected one for each of the {} sources of --data.", text,
                      weights.size(), num_sources);
  return weights;
}

std::vector<std::string> methods_of(const ProbeOptions& options) {
  std::vector<std::string> names;
  for (const method::ImportanceMethod& method : method::importance_methods())
    if (options.measure.method == "all" ? !method.needs_domain : options.measure.method == method.name)
      names.emplace_back(method.name);
  if (names.empty()) {
    std::vector<std::string> known = {"all"};
    for (const method::ImportanceMethod& method : method::importance_methods()) known.emplace_back(method.name);
    const std::string nearest = nearest_name(options.measure.method, known);
    throw ConfigError("--method: found \"{}\"; expected one of {}, all.{}", options.measure.method,
                      method::importance_method_names(", "),
                      nearest.empty() ? "" : fmt::format(" Did you mean {}?", nearest));
  }
  return names;
}

void print_scores(const method::Importance& importance) {
  const int k = importance.stability.num_lowest;
  if (importance.stability.num_resamples > 0)
    fmt::print(
        "{}, layers by index; 'lowest' is the share of resamples of the text in which a layer is among the {} lowest\n",
        importance.method, k);
  else
    fmt::print("{}, layers by index; no confidence estimate, because a source has a single sequence\n",
               importance.method);
  fmt::print("{:>5} {:>12} {:>10} {:>5} {:>7}   {}\n", "layer", "score", "normalized", "rank", "lowest",
             "95 % interval");
  for (const method::LayerImportance& layer : importance.layers)
    fmt::print("{:>5} {:>12.6f} {:>10.4f} {:>5} {:>5.0f} %   [{:.6f}, {:.6f}]\n", layer.index, layer.score,
               layer.normalized, layer.rank, 100 * layer.lowest_share, layer.ci95[0], layer.ci95[1]);
  if (importance.stability.num_resamples > 0)
    fmt::print("the {} lowest: {} (the same layers in {:.1f} % of the resamples)\n", k,
               fmt::join(method::lowest(importance.scores(), k), ", "), 100 * importance.stability.same_set_share);
  if (importance.separation && importance.separation->looks == 0)
    fmt::print("not separated: fewer than 16 sequences, the minimum for a check\n");
  else if (importance.separation)
    fmt::print(
        "{} after {} tokens in {} sequences, {} checks (required: the same layers in {:.1f} % of the resamples)\n",
        importance.separation->reached ? "separated" : "not separated", format_count(importance.tokens),
        format_count(importance.sequences), importance.separation->looks, 100 * importance.separation->required_share);
}

// The agreement of the methods: Spearman's rank correlation and the number of layers in common among the k lowest.
void print_agreement(const std::vector<method::Importance>& importances, int k) {
  fmt::print("\nagreement: Spearman's rank correlation / layers in common among the {} lowest\n{:<18}", k, "");
  for (const method::Importance& column : importances) fmt::print("{:>18}", column.method);
  for (const method::Importance& row : importances) {
    fmt::print("\n{:<18}", row.method);
    const std::vector<int> a = method::lowest(row.scores(), k);
    for (const method::Importance& column : importances) {
      const std::vector<int> b = method::lowest(column.scores(), k);
      std::vector<int> common;
      std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(common));
      const double correlation = method::spearman(row.scores(), column.scores());
      const std::string text = std::isnan(correlation) ? "-" : fmt::format("{:.2f}", correlation);
      fmt::print("{:>18}", fmt::format("{} / {}", text, common.size()));
    }
  }
  fmt::print("\n");
}

void print_figures(const method::Importance& importance, const method::ImportanceMethod& method) {
  fmt::print("{}\n{:>5}", method.figures_meaning, "layer");
  for (const method::Figure& figure : method.figures) fmt::print(" {:>{}}", figure.title, figure.width);
  for (const method::LayerImportance& layer : importance.layers) {
    fmt::print("\n{:>5}", layer.index);
    for (std::size_t f = 0; f < layer.figures.size(); ++f) {
      const auto& [name, title, can_be_negative, width, decimals] = method.figures[f];
      if (can_be_negative)
        fmt::print(" {:>+{}.{}f}", layer.figures[f], width, decimals);
      else
        fmt::print(" {:>{}.{}f}", layer.figures[f], width, decimals);
    }
  }
  fmt::print("\n");
}

// What the strategy would choose.
void print_choice(const method::SelectionStrategy& strategy, const method::Importance& importance,
                  const model::ModelConfig& base, int num_lowest, std::int64_t seq_len) {
  const method::SelectionOptions expand{
      .strategy = std::string(strategy.name), .num_layers = num_lowest, .trainable = {}, .after = {}, .exclude = {}};
  const std::vector<int> chosen = run::choose_layers(expand, base, seq_len, importance);
  fmt::print("{}: {}", strategy.name, run::describe_step_cost(base, seq_len, chosen, expand, importance));
}

// The score of each layer on both texts; copies are marked.
void print_both(const std::filesystem::path& model_dir, const method::Importance& general,
                const method::Importance& domain) {
  std::map<int, int> source_of_copy;
  if (std::filesystem::exists(model_dir / method::kExpansionManifest))
    for (const method::ExpandedLayer& copy : method::read_expansion(model_dir).layers)
      source_of_copy[copy.index] = copy.source;
  fmt::print("{} on both texts\n{:>5} {:>12} {:>12}\n", general.method, "layer", "general", "domain");
  for (std::size_t l = 0; l < general.layers.size(); ++l) {
    const auto copy = source_of_copy.find(static_cast<int>(l));
    fmt::print("{:>5} {:>+12.6f} {:>+12.6f}{}\n", l, general.layers[l].score, domain.layers[l].score,
               copy == source_of_copy.end() ? "" : fmt::format("   copy of layer {} of the base", copy->second));
  }
}

void check_options(const ProbeOptions& options) {
  const method::ImportanceMethod& first = method::importance_method(methods_of(options).front());
  if (first.needs_domain && options.domain.empty())
    throw ConfigError(
        "adept probe: found --method {} without --domain; expected --domain, the text on which it is measured.",
        first.name);
  if (!options.domain.empty() && (options.measure.method == "all" || options.measure.until_separated))
    throw ConfigError(
        "adept probe: found --domain together with {}; expected a single method, measured on the whole sample.",
        options.measure.method == "all" ? "--method all" : "--until-separated");
  parse_weights(options.weights, sources(options.data).size());
}

void print_results(const std::vector<method::Importance>& importances,
                   const std::optional<method::Importance>& in_domain, const run::TextModel& model, int num_lowest,
                   std::int64_t seq_len) {
  for (const method::Importance& importance : importances)
    if (const auto& method = method::importance_method(importance.method); method.figures.empty())
      print_scores(importance);
    else
      print_figures(importance, method);
  if (const auto* strategy = method::strategy_for(importances.front().method))
    print_choice(*strategy, importances.front(), model.config, num_lowest, seq_len);
  if (importances.size() > 1) print_agreement(importances, num_lowest);
  if (in_domain) print_both(model.dir, importances.front(), *in_domain);
}

// Every process of a job does it; the first one writes the results.
void run(const CLI::App& command, ProbeOptions& options) {
  join_job(options.job, options.compute.device);
  const std::vector<std::string> methods = methods_of(options);
  const bool needs_domain = method::importance_method(methods.front()).needs_domain;
  const std::vector<data::TextSource> general_sources = sources(options.data);
  const std::vector<double> weights = parse_weights(options.weights, general_sources.size());
  const std::vector<data::TextSource> domain_sources = sources(options.data, "--domain", options.domain);
  std::vector<data::TextSource> all_sources = general_sources;
  all_sources.insert(all_sources.end(), domain_sources.begin(), domain_sources.end());
  check_data(all_sources, options.out);
  std::optional<io::AtomicFile> out;  // opened now, so an unwritable path fails at once
  if (dist::is_first()) out.emplace(options.out, io::SpecialFile::kWriteThrough);
  const run::TextModel model = run::load_text_model(options.model);
  check_output_is_not_of_model(options.out, model.dir);
  run::init_compute(options.compute);
  require_same_command(command, options.compute);
  run::warn_of_long_sequences(model, options.seq_len);
  const std::int64_t num_layers = model.config.num_hidden_layers;
  if (options.layers > num_layers)
    throw ConfigError("--layers: found {}; expected at most {}, the number of layers of {}.", options.layers,
                      num_layers, model.dir.string());
  const auto num_lowest =
      static_cast<int>(options.layers > 0 ? options.layers : std::min(config::kDefaultNumLayers, num_layers));
  run::MeasuredModel measured(model.dir, io::model_identity(io::WeightFiles::open(model.dir)), options.compute,
                              options.job.dist.shard_base);
  const run::ResultCache cache = run::ResultCache::open();
  const auto general = run::tokenize_for_command(model, general_sources);
  const auto domain = run::tokenize_for_command(model, domain_sources);
  run::print_counts(general);
  if (!domain.empty()) run::print_counts(domain);
  run::require_same_texts({{"--data", general}, {"--domain", domain}});
  const auto sets_of = [&](const std::vector<data::TokenDataset>& datasets) {
    auto sets = run::probe_sequences(datasets, options.seq_len, options.measure.max_tokens);
    run::tell_samples("probe", sets);
    return sets;
  };
  const auto rounds_of = [&](const std::vector<data::SequenceSet>& sets, const std::vector<double>& of_sources) {
    return run::to_rounds(sets, options.measure.batch_size, measured.device(), options.measure.until_separated,
                          of_sources);
  };
  const auto general_sets = sets_of(general);
  const auto domain_sets = domain.empty() ? decltype(general_sets)() : sets_of(domain);
  const auto general_rounds = rounds_of(general_sets, weights), domain_rounds = rounds_of(domain_sets, {});
  const Json samples = {{"general", run::samples_json(general_sets)}, {"domain", run::samples_json(domain_sets)}};
  const method::ProbeOptions probe = {
      .methods = methods, .num_lowest = num_lowest, .until_separated = options.measure.until_separated};
  std::string names = run::names_of(general_sets);
  if (needs_domain) names = run::names_of(domain_sets) + ", " + names;
  const method::ProbeText text =
      needs_domain ? method::ProbeText(general_rounds, domain_rounds.front()) : method::ProbeText(general_rounds);
  const auto importances = run::probe_layers(measured, names, text, probe, cache);
  Json json = method::to_json(importances);
  json["samples"] = samples;
  std::optional<method::Importance> in_domain;
  if (!domain.empty() && !needs_domain) {
    in_domain = run::probe_layers(measured, run::names_of(domain_sets), domain_rounds, probe, cache).front();
    json["domain"] = method::to_json(*in_domain);
  }
  dist::world().on_first([&] {
    out->write(io::record_text(json));
    out->commit();
    print_results(importances, in_domain, model, num_lowest, options.seq_len);
  });
}

}  // namespace

void add_probe_command(CLI::App& app) {
  auto options = std::make_shared<ProbeOptions>();
  CLI::App* command = app.add_subcommand("probe", "Measure how important each layer is for general skill");
  add_model_option(*command, options->model);
  add_data_options(*command, options->data);
  command
      ->add_option("--weights", options->weights,
                   "Weight of each --data source in the scores, in order; default: equal weights")
      ->type_name("2,1");
  command->add_option("--out", options->out, "Output file for the scores (JSON)")->required()->type_name("FILE");
  command
      ->add_option("--domain", options->domain,
                   "Domain text. --method gain requires it; other methods also measure each layer, and each trained "
                   "copy, on this text")
      ->type_name("[NAME=]PATH");
  std::string meanings =
      "How layer importance is measured\nall: all of these that do not require --domain, and their agreement";
  for (const method::ImportanceMethod& method : method::importance_methods())
    meanings += fmt::format("\n{}: {}", method.name, method.meaning);
  command->add_option("--method", options->measure.method, meanings)
      ->type_name(method::importance_method_names("|") + "|all")
      ->capture_default_str();
  add_count_option(
      *command, "--layers", options->layers, 0, 10000,
      fmt::format("Number of layers you plan to expand; the stability of that choice is reported. 0 selects "
                  "{}, or all layers of a smaller model",
                  config::kDefaultNumLayers));
  command->add_flag("--until-separated", options->measure.until_separated,
                    "Stop before --max-tokens once the choice of layers is statistically certain (95 %); with several "
                    "methods, the first one decides");
  add_seq_len_option(*command, options->seq_len);
  add_max_tokens_option(*command, options->measure.max_tokens,
                        "Sample size, in tokens, split evenly among the sources; 0 uses all");
  add_batch_size_option(*command, options->measure.batch_size)
      ->description("Sequences per forward pass; gradient-based methods process one at a time");
  add_compute_options(*command, options->compute);
  add_job_options(*command, options->job);
  command->callback([options, command] {
    check_options(*options);
    if (!ran_in_processes(options->job.nproc)) run(*command, *options);
  });
}

}  // namespace adept::cli
