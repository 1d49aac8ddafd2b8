#include <fmt/format.h>

#include <memory>

#include "adept/core/error.h"
#include "adept/io/atomic_file.h"
#include "adept/io/weight_files.h"
#include "adept/method/importance.h"
#include "adept/run/model_context.h"
#include "adept/run/text.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct Options {
  std::string model, out, method = "mask_out";
  DataOptions data;
  ComputeDType dtype = ComputeDType::kFp32;
  config::Device device = config::Device::kCpu;
  std::int64_t seq_len = 512, max_tokens = 65536, batch_size = 8, threads = 0;
};

void print_scores(const method::Importance& importance) {
  fmt::print("{:>5} {:>12} {:>10} {:>5}   {}\n", "layer", "score", "normalized", "rank", "95 % interval");
  for (const method::LayerImportance& layer : importance.layers)
    fmt::print("{:>5} {:>12.6f} {:>10.4f} {:>5}   [{:.6f}, {:.6f}]\n", layer.index, layer.score, layer.normalized,
               layer.rank, layer.ci95[0], layer.ci95[1]);
}

void run(const Options& options) {
  run::init_compute(options.threads, options.dtype, options.device);
  const method::ImportanceMethod method = method::importance_method_from_string(options.method);
  io::AtomicFile out(options.out);  // a place that cannot be written is no news to hear after hours
  const run::TextModel model = run::load_text_model(options.model);
  run::warn_of_long_sequences(model, options.seq_len);
  const model::Decoder decoder = run::load_decoder(model.dir, options.dtype, options.device);
  std::vector<data::TokenDataset> datasets;
  for (const config::Source& source : sources(options.data)) datasets.push_back(run::tokenize_source(model, source));
  run::print_counts(datasets);
  const auto sets = run::probe_sequences(datasets, options.seq_len, options.max_tokens);
  method::Importance importance =
      run::probe_importance(decoder, run::to_batches(sets, options.batch_size, decoder.device()), method);
  importance.model_hash = io::WeightFiles::open(model.dir).hash();
  out.write(method::to_json(importance).dump(2) + "\n");
  out.commit();
  print_scores(importance);
}

}  // namespace

void add_probe_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("probe", "Measure how much general skill each layer carries");
  add_model_option(*command, options->model);
  add_data_options(*command, options->data);
  command->add_option("--out", options->out, "File for the scores (JSON)")->required()->type_name("FILE");
  command
      ->add_option("--method", options->method,
                   "mask_out (loss without the layer) or cumulative (gradient times weight)")
      ->type_name("mask_out|cumulative")
      ->capture_default_str();
  add_seq_len_option(*command, options->seq_len);
  add_max_tokens_option(*command, options->max_tokens, "Text to measure on, shared equally by the sources; 0 = all");
  add_batch_size_option(*command, options->batch_size);
  add_dtype_option(*command, options->dtype);
  add_device_option(*command, options->device);
  add_threads_option(*command, options->threads);
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
