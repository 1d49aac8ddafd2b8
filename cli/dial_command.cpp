#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <optional>

#include "adept/core/error.h"
#include "adept/method/dial.h"
#include "adept/run/model_context.h"
#include "adept/run/text.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

constexpr double kDefaultRise = 0.01;  // nats per token: about 1 % of the perplexity

struct Options {
  std::string model, out;
  std::vector<std::string> general, domain;
  DataOptions data;
  std::optional<double> max_general_rise, general_weight;
  std::int64_t points = 11, seq_len = 512, max_tokens = 16384, batch_size = 8, threads = 0;
  bool per_copy = false, force = false;
  ComputeDType dtype = ComputeDType::kFp32;
  config::Device device = config::Device::kCpu;
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

void run(const Options& options) {
  if (options.max_general_rise && options.general_weight)
    throw ConfigError("adept dial: found --max-general-rise and --general-weight; expected one of them.");
  if ((options.max_general_rise.value_or(0) < 0) || (options.general_weight.value_or(0) < 0))
    throw ConfigError("adept dial: found a negative {}; expected 0 or more.",
                      options.max_general_rise ? "--max-general-rise" : "--general-weight");
  run::init_compute(options.threads, options.dtype, options.device);
  const run::TextModel model = run::load_text_model(options.model);
  const method::Expansion expansion = method::read_expansion(model.dir);
  std::error_code ignored;
  if (std::filesystem::equivalent(model.dir, options.out, ignored))
    throw ConfigError("--out {}: is the model itself; expected a directory of its own.", options.out);
  if (std::filesystem::exists(options.out) && !options.force)
    throw DataError("{}: exists already; remove it, or replace it with --force.", options.out);
  model::Decoder decoder = run::load_decoder(model.dir, options.dtype, options.device);
  const auto batches = [&](const std::string& option, const std::vector<std::string>& paths) {
    DataOptions data = options.data;
    data.option = option;
    data.data = paths;
    std::vector<data::TokenDataset> datasets;
    for (const config::Source& source : sources(data)) datasets.push_back(run::tokenize_source(model, source));
    run::print_counts(datasets);
    return run::to_batches(run::probe_sequences(datasets, options.seq_len, options.max_tokens), options.batch_size,
                           decoder.device());
  };
  const auto general = batches("--general", options.general), domain = batches("--domain", options.domain);
  method::DialOptions dial_options = {.points = static_cast<int>(options.points),
                                      .max_general_rise = options.max_general_rise,
                                      .general_weight = options.general_weight,
                                      .per_copy = options.per_copy};
  if (!options.general_weight) dial_options.max_general_rise = options.max_general_rise.value_or(kDefaultRise);
  const auto copies = std::ssize(expansion.layers);
  const std::int64_t measurements = options.points + (options.per_copy ? 2 * copies * (options.points - 1) : 0);
  Progress progress("dial", measurements * static_cast<std::int64_t>(general.size() + domain.size()));
  const method::Dial dial = method::measure_dial(decoder, expansion, general, domain, dial_options, progress);
  progress.finish(
      fmt::format("general loss {:.4f}, domain loss {:.4f}", dial.chosen.general_loss, dial.chosen.domain_loss));
  method::export_dialed(model.dir, options.out, expansion, dial.chosen.alphas, method::to_json(dial, expansion),
                        options.force ? io::OnExisting::kReplace : io::OnExisting::kFail);
  print_dial(dial, expansion);
  fmt::print("{}\n", options.out);
}

}  // namespace

void add_dial_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("dial", "Scale what the copies of a trained model add, between the base (0) and all (1)");
  add_model_option(*command, options->model);
  command->add_option("--general", options->general, "General text whose loss is to stay; as --data of adept probe")
      ->required()
      ->type_name("[NAME=]PATH");
  command->add_option("--domain", options->domain, "Domain text whose loss is to fall")
      ->required()
      ->type_name("[NAME=]PATH");
  add_text_options(*command, options->data);
  command->add_option("--out", options->out, "Directory for the model as chosen")->required()->type_name("DIR");
  command
      ->add_option("--max-general-rise", options->max_general_rise,
                   "Choose the largest alpha whose general loss is at most so far above the base's, in nats per token "
                   "(default 0.01)")
      ->type_name("NATS");
  command
      ->add_option("--general-weight", options->general_weight,
                   "Choose the lowest domain loss + W * general loss instead")
      ->type_name("W");
  command->add_flag("--per-copy", options->per_copy,
                    "Then search an alpha for each copy, starting from the common one");
  add_count_option(*command, "--points", options->points, 2, 1001, "Points of the curve, 0 and 1 included");
  add_seq_len_option(*command, options->seq_len);
  add_max_tokens_option(*command, options->max_tokens,
                        "General and domain text to measure on, each shared equally by its sources; 0 = all");
  add_batch_size_option(*command, options->batch_size);
  add_dtype_option(*command, options->dtype);
  add_device_option(*command, options->device);
  add_threads_option(*command, options->threads);
  command->add_flag("--force", options->force, "Replace --out if it exists");
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
