// How fast training sequences are delivered from a token store (bench/run store): sequences of random documents are
// read, packed and put into batches, without a model.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/choices.h"
#include "adept/core/json.h"
#include "adept/data/prefetcher.h"
#include "adept/data/sequences.h"
#include "adept/data/store/token_store.h"
#include "adept/data/train_loader.h"
#include "bench/program.h"

namespace adept::bench {
namespace {

struct Options {
  std::filesystem::path store;
  std::int64_t seq_len = 2048, rows = 8, steps = 200;
  std::string packing = "concat";
};

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void measure(const Options& options) {
  std::optional<data::TrainLoader> loader;
  const double opening = seconds([&] {
    data::TokenDataset dataset = data::open_store(options.store);
    const std::optional<std::int32_t> eos = dataset.info().eos;
    loader.emplace(std::vector<data::TrainSource>{{.dataset = std::move(dataset)}},
                   data::TrainLoaderOptions{.seq_len = options.seq_len,
                                            .eos = eos,
                                            .seed = 1,
                                            .packing = from_string<data::Packing>(options.packing).value()});
  });
  const std::int64_t last = options.steps * options.rows;
  loader->plan(0, last);
  std::int64_t tokens = 0;
  data::Prefetcher prefetcher(*loader);
  const double delivery = seconds([&] {
    for (std::int64_t step = 0; step < options.steps; ++step) {
      const data::TokenBatch batch = data::make_batch(prefetcher.next_step(options.rows, last));
      for (const std::int64_t length : batch.lengths) tokens += length;
    }
  });
  fmt::print("{}\n", Json{{"tokens", tokens}, {"seconds", delivery}, {"open_seconds", opening}}.dump());
}

}  // namespace
}  // namespace adept::bench

int main(int argc, char** argv) {
  adept::bench::Options options;
  CLI::App app("Delivery of training batches from a token store", "adept_batches_bench");
  app.add_option("--store", options.store, "Folder of a token store")->required();
  app.add_option("--seq-len", options.seq_len)->capture_default_str()->check(CLI::Range(2, 1 << 24));
  app.add_option("--rows", options.rows, "Sequences of a batch")->capture_default_str()->check(CLI::Range(1, 1 << 20));
  app.add_option("--steps", options.steps)->capture_default_str()->check(CLI::Range(1, 1 << 30));
  app.add_option("--packing", options.packing)->capture_default_str()->check(CLI::IsMember({"concat", "best_fit"}));
  return adept::bench::run(app, argc, argv, [&] { adept::bench::measure(options); });
}
