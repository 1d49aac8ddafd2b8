#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/io/hub.h"
#include "adept/io/model_identity.h"
#include "adept/method/beyond/scores.h"
#include "adept/method/expansion.h"
#include "adept/method/importance.h"
#include "adept/method/selection.h"
#include "adept/run/expansion_plan.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct ExpandOptions {
  std::string model, out, importance, method, after, exclude, trainable;
  std::optional<int> layers;
  std::string strategy;
  std::int64_t copies = 1, seq_len = config::kDefaultSeqLen;
  bool force = false;
};

/// "3,7,11" as numbers.
std::vector<std::int64_t> parse_layers(const std::string& option, const std::string& text) {
  std::vector<std::int64_t> layers;
  std::istringstream items(text + ",");
  for (std::string item; std::getline(items, item, ',');) {
    int layer = 0;
    const auto [end, error] = std::from_chars(item.data(), item.data() + item.size(), layer);
    if (error != std::errc() || end != item.data() + item.size())
      throw ConfigError("{} {}: found \"{}\"; expected layer indices such as 3,7,11.", option, text, item);
    layers.push_back(layer);
  }
  return layers;
}

/// "15%" or "0.15".
double parse_share(const std::string& text) {
  double share = 0;
  const bool percent = text.ends_with('%');
  const char* last = text.data() + text.size() - (percent ? 1 : 0);
  const auto [end, error] = std::from_chars(text.data(), last, share);
  if (percent) share /= 100;
  if (error != std::errc() || end != last || !(share > 0 && share < 1))
    throw ConfigError("--trainable: found \"{}\"; expected a share of all parameters, such as 15%.", text);
  return share;
}

/// The options as the configuration would hold them.
method::SelectionOptions expand_config(const ExpandOptions& options) {
  const bool by_hand = !options.after.empty();
  method::SelectionOptions expand{.strategy = by_hand ? method::kManualLayers : method::kLowestLayers,
                                  .num_layers = options.layers,
                                  .trainable = {},
                                  .after = {},
                                  .copies = options.copies,
                                  .exclude = {}};
  if (!options.strategy.empty()) {
    const std::vector<std::string> known = method::selection_strategies();
    std::vector<std::string> without_after = known;
    std::erase(without_after, method::kManualLayers);
    const bool is_known = std::find(known.begin(), known.end(), options.strategy) != known.end();
    if (!is_known || (options.strategy == method::kManualLayers) != by_hand)
      throw ConfigError("--strategy: found \"{}\"{}; expected {}.", options.strategy,
                        by_hand ? " together with --after" : "",
                        by_hand ? method::kManualLayers
                                : fmt::format("{} (manual requires --after)", fmt::join(without_after, ", ")));
    expand.strategy = options.strategy;
  }
  if (!options.trainable.empty()) expand.trainable = parse_share(options.trainable);
  if (!options.exclude.empty()) expand.exclude = parse_layers("--exclude", options.exclude);
  if (by_hand) expand.after = parse_layers("--after", options.after);
  const bool has_size = options.layers.has_value() != expand.trainable.has_value();
  const bool has_scores = !options.importance.empty() || !expand.needs_scores();
  if (by_hand ? options.layers || expand.trainable || !options.importance.empty() || !options.method.empty() ||
                    !options.exclude.empty() || options.copies != 1
              : !has_size || !has_scores)
    throw ConfigError(
        "adept expand: expected either --importance FILE (and --method) with --layers K or --trainable SHARE, or "
        "--strategy uniform with one of these, or --after 3,7,11 alone. See: adept expand --help");
  return expand;
}

void run(const ExpandOptions& options) {
  const method::SelectionOptions expand = expand_config(options);
  const std::filesystem::path model = io::resolve_model(options.model);
  std::vector<std::filesystem::path> inputs = {model};
  if (!options.importance.empty()) inputs.emplace_back(options.importance);
  check_output_directory(options.out, inputs, options.force);
  const model::ModelConfig base = model::read_model_config(model);
  std::optional<method::Importance> importance;
  if (!options.importance.empty()) {
    importance = method::read_importance(options.importance, options.method);
    const std::string differs =
        importance->model ? io::differing_parts(*importance->model, io::model_identity(io::WeightFiles::open(model)))
                          : "";
    if (std::ssize(importance->layers) != base.num_hidden_layers || !differs.empty())
      throw ConfigError(
          "--importance {}: found scores of a different model ({} layers{}); expected scores of {} ({} layers). Run "
          "adept probe on it.",
          options.importance, importance->layers.size(), differs.empty() ? "" : ", different " + differs, options.model,
          base.num_hidden_layers);
  }
  if (options.layers.value_or(1) < 1 || options.layers.value_or(1) > base.num_hidden_layers)
    throw ConfigError("--layers: found {}; expected 1 to {}, the number of layers of {}.", *options.layers,
                      base.num_hidden_layers, options.model);
  const std::vector<int> after = run::choose_layers(expand, base, options.seq_len, importance);
  const method::Expansion expansion = method::expand_model(
      model, options.out, after, importance, options.force ? io::OnExisting::kReplace : io::OnExisting::kFail);
  fmt::print("{:>6} {:>6}\n", "source", "copy");
  for (const method::ExpandedLayer& layer : expansion.layers) fmt::print("{:>6} {:>6}\n", layer.source, layer.index);
  fmt::print("{}", run::describe_step_cost(base, options.seq_len, after, expand, importance));
  fmt::print("expanded from {} to {} layers: {}\n", expansion.base_num_hidden_layers,
             expansion.base_num_hidden_layers + static_cast<int>(expansion.layers.size()), options.out);
}

}  // namespace

void add_expand_command(CLI::App& app) {
  auto options = std::make_shared<ExpandOptions>();
  CLI::App* command = app.add_subcommand("expand", "Insert an identity copy after each of the least important layers");
  add_model_option(*command, options->model);
  command->add_option("--out", options->out, "Output directory for the expanded model")->required()->type_name("DIR");
  command->add_option("--importance", options->importance, "Importance scores, written by adept probe")
      ->type_name("FILE");
  command->add_option("--method", options->method, "Which scores in the file to use; default: the first")
      ->type_name(method::importance_method_names("|"));
  command
      ->add_option("--strategy", options->strategy,
                   "How layers are selected; default: lowest, or manual with --after\n" +
                       method::selection_strategy_meanings("\n"))
      ->type_name(fmt::format("{}", fmt::join(method::selection_strategies(), "|")));
  command->add_option("--layers", options->layers, "Number of layers to copy")->type_name("K");
  command
      ->add_option("--trainable", options->trainable,
                   "Instead of --layers: upper limit on the copies' share of all parameters, such as 15%")
      ->type_name("SHARE");
  command->add_option("--exclude", options->exclude, "Indices of layers that are never copied")->type_name("0,1");
  add_count_option(*command, "--copies", options->copies, 1, 100, "Number of copies of each selected layer");
  command
      ->add_option(
          "--after", options->after,
          "Indices of the layers to copy, instead of --importance and --layers; repeat an index for several copies")
      ->type_name("3,7,11");
  add_seq_len_option(*command, options->seq_len)->description("Training sequence length, for the cost estimate");
  command->add_flag("--force", options->force, "Replace --out if it exists");
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
