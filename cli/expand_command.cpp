#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/io/hub.h"
#include "adept/method/expansion.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct Options {
  std::string model, out, importance;
  std::optional<int> layers;
  std::string after;
  bool force = false;
};

/// "3,7,11" as numbers.
std::vector<int> parse_layers(const std::string& text) {
  std::vector<int> layers;
  std::istringstream items(text + ",");
  for (std::string item; std::getline(items, item, ',');) {
    int layer = 0;
    const auto [end, error] = std::from_chars(item.data(), item.data() + item.size(), layer);
    if (error != std::errc() || end != item.data() + item.size())
      throw ConfigError("--after {}: found \"{}\"; expected layer indices such as 3,7,11.", text, item);
    layers.push_back(layer);
  }
  return layers;
}

void run(const Options& options) {
  const bool by_score = !options.importance.empty() && options.layers;
  if (by_score == !options.after.empty() || options.importance.empty() == options.layers.has_value())
    throw ConfigError(
        "adept expand: expected either --importance FILE --layers K, or --after 3,7,11. See: adept expand --help");
  const std::filesystem::path model = io::resolve_model(options.model);
  std::error_code ignored;
  if (std::filesystem::equivalent(model, options.out, ignored))
    throw ConfigError("--out {}: is the model itself; expected a directory of its own.", options.out);
  std::optional<method::Importance> importance;
  std::vector<int> after;
  if (!options.after.empty()) after = parse_layers(options.after);
  if (by_score) {
    importance = method::read_importance(options.importance);
    after = method::select_lowest(*importance, *options.layers);
  }
  const method::Expansion expansion = method::expand_model(
      model, options.out, after, importance, options.force ? io::OnExisting::kReplace : io::OnExisting::kFail);
  fmt::print("{:>6} {:>6}\n", "source", "copy");
  for (const method::ExpandedLayer& layer : expansion.layers) fmt::print("{:>6} {:>6}\n", layer.source, layer.index);
  fmt::print("{} layers became {}: {}\n", expansion.base_num_hidden_layers,
             expansion.base_num_hidden_layers + static_cast<int>(expansion.layers.size()), options.out);
}

}  // namespace

void add_expand_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("expand", "Put an identity copy behind each of the least important layers");
  add_model_option(*command, options->model);
  command->add_option("--out", options->out, "Directory for the expanded model")->required()->type_name("DIR");
  command->add_option("--importance", options->importance, "Scores of adept probe")->type_name("FILE");
  command->add_option("--layers", options->layers, "How many of the least important layers to copy")->type_name("K");
  command->add_option("--after", options->after, "Layers to copy, by index, instead of --importance and --layers")
      ->type_name("3,7,11");
  command->add_flag("--force", options->force, "Replace --out if it exists");
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
