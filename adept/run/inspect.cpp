#include "adept/run/inspect.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/file.h"
#include "adept/core/progress.h"
#include "adept/core/signals.h"
#include "adept/data/mixture_table.h"
#include "adept/run/model_context.h"
#include "adept/run/preflight.h"
#include "adept/run/text.h"
#include "adept/run/token_printer.h"
#include "adept/run/training_text.h"
#include "adept/train/plan.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBarWidth = 40;
constexpr int kMixtureRows = 10;
constexpr std::size_t kSkippedShown = 3;
constexpr std::int64_t kSkippedBytes = 200;

/// A folder that exists as long as this object.
class ScratchFolder {
 public:
  ScratchFolder() {
    const fs::path parent = fs::temp_directory_path();
    std::string name = (parent / "adept-inspect-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw system_error(parent, "create a temporary folder in it", errno);
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::vector<std::int64_t> lengths_of(const data::TokenDataset& dataset) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < dataset.num_documents(); ++i) {
    throw_if_interrupted();
    lengths.push_back(dataset.document_tokens(i));
  }
  std::ranges::sort(lengths);
  return lengths;
}

std::int64_t num_untrained(const data::TokenDataset& dataset) {
  std::int64_t tokens = 0;
  for (std::int64_t i = 0; dataset.has_untrained() && i < dataset.num_documents(); ++i) {
    throw_if_interrupted();
    for (const data::TokenSpan& span : dataset.untrained(i).spans) tokens += span.end - span.begin;
  }
  return tokens;
}

// Documents by length, in powers of two.
void print_histogram(const std::vector<std::int64_t>& lengths) {
  std::vector<std::int64_t> counts;
  for (const std::int64_t length : lengths) {
    const auto bucket = static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(length)) - 1);
    counts.resize(std::max(counts.size(), bucket + 1));
    ++counts[bucket];
  }
  const std::int64_t most = std::ranges::max(counts);
  for (std::size_t bucket = 0; bucket < counts.size(); ++bucket) {
    if (counts[bucket] == 0) continue;
    const std::int64_t low = std::int64_t{1} << bucket;
    const double width =
        static_cast<double>(kBarWidth) * static_cast<double>(counts[bucket]) / static_cast<double>(most);
    fmt::print("    {:>11} tokens  {:>12}  {}\n",
               bucket == 0 ? "1" : fmt::format("{} to {}", format_count(low), format_count(2 * low - 1)),
               format_count(counts[bucket]),
               std::string(std::max<std::size_t>(1, static_cast<std::size_t>(width)), '#'));
  }
}

// Records that were skipped, by reason, and the first ones.
void print_skipped(const data::DatasetInfo& info) {
  for (const auto& [reason, count] : info.counts.skipped) fmt::print("  skipped {}: {}\n", format_count(count), reason);
  for (std::size_t i = 0; i < std::min(info.skipped.size(), kSkippedShown); ++i)
    fmt::print("    {}: {}: found {}\n", info.skipped[i].position, info.skipped[i].reason,
               printable(info.skipped[i].found, kSkippedBytes).text);
}

void print_source(const char* part, const data::TokenDataset& dataset) {
  const std::vector<std::int64_t> lengths = lengths_of(dataset);
  const data::SourceCounts& counts = dataset.counts();
  fmt::print("\n{} ({}): {} documents, {} tokens, {}, {:.2f} bytes per token\n", dataset.name(), part,
             format_count(dataset.num_documents()), format_count(dataset.num_tokens()), format_bytes(counts.bytes),
             static_cast<double>(counts.bytes) / static_cast<double>(std::max<std::int64_t>(1, dataset.num_tokens())));
  print_skipped(dataset.info());
  if (lengths.empty()) return;
  if (const std::int64_t untrained = num_untrained(dataset); untrained > 0)
    fmt::print("  {} tokens are context only ({:.1f} %): what is no answer\n", format_count(untrained),
               100 * static_cast<double>(untrained) / static_cast<double>(dataset.num_tokens()));
  const auto quantile = [&](std::size_t percent) {
    return format_count(lengths[(lengths.size() - 1) * percent / 100]);
  };
  fmt::print("  tokens of a document: 10 % at most {}, 50 % {}, 90 % {}, longest {}\n", quantile(10), quantile(50),
             quantile(90), quantile(100));
  print_histogram(lengths);
}

void print_mixture(const data::TrainLoader& loader, const train::TrainingLength& length) {
  fmt::print("\nmixture of {} steps, {} sequences\n\n{}\n", format_count(length.steps), format_count(length.sequences),
             data::format_mixture(loader));
  std::size_t width = 8;
  for (std::int64_t s = 0; s < loader.num_sources(); ++s) width = std::max(width, loader.source_name(s).size());
  fmt::print("sequences ");
  for (std::int64_t s = 0; s < loader.num_sources(); ++s) fmt::print("  {:>{}}", loader.source_name(s), width);
  fmt::print("\n");
  const std::int64_t total = length.sequences;
  for (int row = 0; row < kMixtureRows; ++row) {
    const std::int64_t begin = total * row / kMixtureRows, end = total * (row + 1) / kMixtureRows;
    if (begin == end) continue;
    fmt::print("  to {:>3} %", 100 * (row + 1) / kMixtureRows);
    for (std::int64_t s = 0; s < loader.num_sources(); ++s) {
      const double given = loader.expected(s, end) - loader.expected(s, begin);
      fmt::print("  {:>{}.2f}%", 100 * given / static_cast<double>(end - begin), width - 1);
    }
    fmt::print("\n");
  }
  fmt::print("  epochs  ");
  for (std::int64_t s = 0; s < loader.num_sources(); ++s)
    fmt::print("  {:>{}.3f}", loader.expected(s, total) / static_cast<double>(loader.sequences_per_epoch(s)), width);
  fmt::print("\n");
}

// What a training reads.
struct TrainingText {
  TrainingText(const TextModel& model, const config::RunConfig& config)
      : datasets(tokenize_all(model, config.data, folder.path())),
        loader(make_loader(model, config)),
        length(train::training_length(config.train, loader, train::start_of(loader), 0)) {
    loader.plan(0, length.sequences);
  }

  ScratchFolder folder;
  Datasets datasets;
  data::TrainLoader loader;
  train::TrainingLength length;

 private:
  data::TrainLoader make_loader(const TextModel& model, const config::RunConfig& config) {
    check_training_text(model, config, datasets, ResultCache::open(folder.path() / "results"));
    return make_train_loader(model, config, datasets);
  }
};

void append_lengths(const data::SequenceSet& set, std::int64_t batch_size, DividedBatches& batches) {
  const std::vector<std::int64_t> lengths = set.lengths();
  const std::int64_t longest = lengths.empty() ? 1 : std::ranges::max(lengths);
  for (const auto& group : data::group_into_batches(lengths, batch_size, batch_size * longest)) {
    BatchLengths batch;
    for (const std::int64_t i : group) batch.push_back(lengths[static_cast<std::size_t>(i)]);
    batches.push_back(std::move(batch));
  }
}

}  // namespace

MeasuredText measured_text(const config::RunConfig& config) {
  constexpr auto kRun = config::Purpose::kRun;
  const bool probes = run::probes(config, kRun), probes_domain = run::probes_domain(config, kRun);
  const bool uses_importance = config.unit_lr.uses_importance();
  config::DataConfig data = config.data;
  data.train.resize(probes_domain ? 1 : 0);
  data.replay.clear();
  if (!probes && !uses_importance) data.general.clear();
  const TextModel model = load_text_model(config.model);
  const ScratchFolder folder;
  const Datasets datasets = tokenize_all(model, data, folder.path());
  MeasuredText text;
  const auto append_probe = [&](const std::vector<data::TokenDataset>& sources, std::int64_t max_tokens,
                                DividedBatches& batches) {
    for (const data::SequenceSet& set : probe_sequences(sources, config.seq_len, max_tokens))
      append_lengths(set, config.probe.batch_size, batches);
  };
  if (probes) append_probe(datasets.general, config.probe.max_tokens, text.probe);
  if (probes_domain) append_probe(datasets.train, config.probe.max_tokens, text.domain);
  if (uses_importance) append_probe(datasets.general, config.unit_lr.probe_tokens, text.units);
  for (const data::TokenDataset& dataset : datasets.eval) {
    append_lengths(eval_sequences(config, model, dataset), config.eval.batch_size, text.eval.emplace_back());
    if (config.expands() && config.eval.copies_tokens > 0)
      append_lengths(data::windows(dataset, {.seq_len = config.seq_len, .max_tokens = config.eval.copies_tokens}),
                     config.eval.batch_size, text.copies.emplace_back());
  }
  return text;
}

std::int64_t training_sequences(const config::RunConfig& config) {
  return TrainingText(load_text_model(config.model), config).length.sequences;
}

void inspect_data(const config::RunConfig& config, const InspectOptions& options) {
  const TextModel model = load_text_model(config.model);
  auto [folder, datasets, loader, length] = TrainingText(model, config);
  for (const auto& [part, sources] : {std::pair{"data.train", &datasets.train},
                                      {"data.replay", &datasets.replay},
                                      {"data.general", &datasets.general},
                                      {"data.eval", &datasets.eval}})
    for (const data::TokenDataset& dataset : *sources) print_source(part, dataset);
  print_mixture(loader, length);
  const TokenPrinter printer(model.tokenizer, {.document_bytes = options.document_bytes, .color = options.color});
  const std::int64_t count =
      std::min({options.sequences, config.train.batch_size * config.train.grad_accum, length.sequences});
  std::int64_t number = 0;
  if (count == 0) return;
  fmt::print("\nfirst step; a document attends {}{}\n",
             config.data.document_mask ? "only to itself" : "to the documents before it in its sequence",
             options.color ? "; dim text is not predicted" : "; «text» is not predicted");
  for (const data::Sequence& sequence : loader.next_step(count))
    printer.print(++number, config.train.batch_size * config.train.grad_accum, loader.source_name(sequence.source),
                  sequence);
}

}  // namespace adept::run
