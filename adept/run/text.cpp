#include "adept/run/text.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/random.h"
#include "adept/data/source_counts.h"
#include "adept/dist/division.h"
#include "adept/eval/evaluate.h"
#include "adept/run/token_cache.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

void append_batches(const data::SequenceSet& set, std::span<const std::int64_t> indices, std::size_t source,
                    const std::vector<double>& weights, std::int64_t batch_size, at::Device device,
                    std::vector<method::ProbeBatch>& batches) {
  std::vector<std::int64_t> lengths;
  std::int64_t longest = 1;
  for (const std::int64_t i : indices) {
    lengths.push_back(set.length(i));
    longest = std::max(longest, lengths.back());
  }
  for (const auto& group : data::group_into_batches(lengths, batch_size, batch_size * longest)) {
    std::vector<data::Sequence> rows;
    for (const std::int64_t i : group) rows.push_back(set[indices[static_cast<std::size_t>(i)]]);
    batches.push_back({.batch = model::to_batch(data::make_batch(rows), device),
                       .source = static_cast<int>(source),
                       .weight = weights.empty() ? 1.0 : weights.at(source)});
  }
}

using data::WeightSchedule;

// After the tokens that the tokenizer puts in front of every text, if the documents start with them.
data::DocumentTag tag_of(const data::Tokenizer& tokenizer, const std::optional<std::string>& text,
                         const data::TokenDataset& dataset) {
  if (!text || dataset.num_documents() == 0) return {};
  const std::vector<std::int32_t> empty = tokenizer.encode(""), letter = tokenizer.encode("a");
  const auto begin = std::mismatch(empty.begin(), empty.end(), letter.begin(), letter.end()).first - empty.begin();
  data::DocumentTag tag{.ids = tokenizer.encode(*text, /*add_special_tokens=*/false), .position = begin};
  std::vector<std::int32_t> first(static_cast<std::size_t>(std::min<std::int64_t>(begin, dataset.document_tokens(0))));
  dataset.read(0, 0, first);
  if (!std::equal(first.begin(), first.end(), empty.begin(), empty.begin() + begin)) tag.position = 0;
  return tag;
}

// The same for all names of a file; of a pipe, its name.
fs::path identity_of(const fs::path& file) {
  std::error_code error;
  fs::path path = fs::canonical(file, error);
  return error ? file : path;
}

// Of the documents that are trained on, with EOS; at least 1 (TrainLoader reports a source without any).
double trained_tokens(const data::TokenDataset& dataset, const std::vector<std::int64_t>& excluded) {
  std::int64_t tokens = dataset.num_tokens() + dataset.num_documents();
  for (const std::int64_t document : excluded) tokens -= dataset.document_tokens(document) + 1;
  return static_cast<double>(std::max<std::int64_t>(1, tokens));
}

// Splits a share of the mixture, which may change, by the given weights or, without weights, by tokens (including EOS)
// and temperature.
void append_sources(const TextModel& model, const std::vector<data::TokenDataset>& datasets,
                    const std::vector<config::TrainSource>& configs, const std::optional<WeightSchedule>& share,
                    double temperature, std::span<const std::vector<std::int64_t>> excluded,
                    std::vector<data::TrainSource>& sources) {
  std::vector<double> sizes;
  for (std::size_t i = 0; i < datasets.size(); ++i)
    sizes.push_back(trained_tokens(datasets[i], excluded.empty() ? std::vector<std::int64_t>() : excluded[i]));
  const bool has_weights = std::ranges::all_of(configs, [](const auto& source) { return source.weight.has_value(); });
  const std::vector<double> by_size = has_weights ? sizes : data::weights_by_size(datasets, sizes, temperature);
  std::vector<WeightSchedule> weights;
  for (std::size_t i = 0; i < datasets.size(); ++i) weights.push_back(configs[i].weight.value_or(by_size[i]));
  const auto value_at = [&](std::size_t i, double progress) {
    double sum = 0;
    for (const WeightSchedule& weight : weights) sum += weight.at(progress);
    return share->at(progress) * weights[i].at(progress) / sum;
  };
  std::set<double> progresses;
  for (const WeightSchedule& weight : weights) weight.add_progresses(progresses);
  if (share) share->add_progresses(progresses);
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    std::optional<WeightSchedule> weight = configs[i].weight;
    if (share) {
      std::vector<WeightSchedule::Point> points;
      for (const double progress : progresses) points.push_back({progress, value_at(i, progress)});
      weight = points.empty() ? WeightSchedule(value_at(i, 0)) : WeightSchedule(std::move(points));
    }
    sources.push_back({.dataset = datasets[i],
                       .weight = weight,
                       .tag = tag_of(model.tokenizer, configs[i].tag, datasets[i]),
                       .excluded = excluded.empty() ? std::vector<std::int64_t>() : excluded[i],
                       .epochs = configs[i].epochs,
                       .max_tokens = configs[i].max_tokens});
  }
}

// What replay leaves.
WeightSchedule rest_of(const WeightSchedule& replay) {
  std::vector<WeightSchedule::Point> points = replay.points();
  for (WeightSchedule::Point& point : points) point.value = 1 - point.value;
  return WeightSchedule(std::move(points));
}

// By all processes: see tokenize_all.
std::vector<data::TokenDataset> tokenize_divided(const TextModel& model,
                                                 const std::vector<const data::TextSource*>& sources,
                                                 const fs::path& directory, Verify verify) {
  std::vector<std::optional<data::TokenDataset>> datasets(sources.size());
  const auto open = [&](std::size_t first, std::size_t step, Verify how) {
    for (std::size_t i = first; i < sources.size(); i += step)
      if (!datasets[i]) datasets[i] = tokenize_source_cached(model, *sources[i], directory, how);
  };
  dist::ProcessGroup& group = dist::world();
  const dist::Launch& launch = group.launch();
  const dist::Share share = dist::share_among(group, launch.is_first_on_its_cores());
  if (launch.is_first_on_its_cores())
    open(static_cast<std::size_t>(share.index), static_cast<std::size_t>(share.count), verify);
  group.meet();
  if (launch.local_rank == 0) open(0, 1, verify);  // what other machines built elsewhere
  group.meet();
  open(0, 1, Verify::kWhenRead);  // verified by another process of this machine
  std::vector<data::TokenDataset> result;
  for (auto& dataset : datasets) result.push_back(*std::move(dataset));
  return result;
}

}  // namespace

Datasets tokenize_all(const TextModel& model, const config::DataConfig& data, const fs::path& directory) {
  std::vector<const data::TextSource*> sources;
  const auto list = [&](const auto& part) {
    for (const data::TextSource& source : part) sources.push_back(&source);
  };
  list(data.train), list(data.replay), list(data.general), list(data.eval);
  std::vector<data::TokenDataset> datasets =
      tokenize_divided(model, sources, directory, data.verify ? Verify::kNow : Verify::kWhenRead);
  auto next = datasets.begin();
  const auto take = [&](const auto& part) {
    const auto first = std::exchange(next, next + std::ssize(part));
    return std::vector<data::TokenDataset>(first, next);
  };
  Datasets result;
  result.train = take(data.train);
  result.replay = take(data.replay);
  result.general = take(data.general);
  result.eval = take(data.eval);
  return result;
}

std::vector<data::TokenDataset> tokenize_for_command(const TextModel& model,
                                                     const std::vector<data::TextSource>& sources) {
  dist::ProcessGroup& group = dist::world();
  const bool use_stores = group.size() > 1 && group.max(token_folder({}).empty() ? 1 : 0) == 0;
  if (use_stores) {
    std::vector<const data::TextSource*> list;
    for (const data::TextSource& source : sources) list.push_back(&source);
    return tokenize_divided(model, list, /*directory=*/{}, Verify::kWhenRead);
  }
  std::vector<data::TokenDataset> datasets;
  for (const data::TextSource& source : sources) datasets.push_back(tokenize_source(model, source));
  group.meet();
  return datasets;
}

void print_counts(const std::vector<data::TokenDataset>& datasets) {
  std::vector<data::NamedCounts> rows;
  for (const data::TokenDataset& dataset : datasets)
    rows.push_back({.name = dataset.name(), .counts = dataset.counts()});
  log_table(data::format_source_table(rows));
}

void warn_of_shared_files(const config::RunConfig& config) {
  std::map<fs::path, std::string> trained_on;  // file -> key and source
  const auto add = [&](const char* key, const auto& sources) {
    for (const data::TextSource& source : sources)
      for (const fs::path& file : data::find_files(source).files) {
        const std::string name = fmt::format("{} ({})", key, source.name);
        if (const auto [found, is_new] = trained_on.emplace(identity_of(file), name); !is_new)
          log_warning("{}: is in both {} and {}, so its text is trained on more often.", file.string(), found->second,
                      name);
      }
  };
  add("data.train", config.data.train);
  if (config.train.replay_ratio.value_or(0).max() > 0) add("data.replay", config.data.replay);
  for (const data::TextSource& source : config.data.eval)
    for (const fs::path& file : data::find_files(source).files)
      if (const auto found = trained_on.find(identity_of(file)); found != trained_on.end())
        log_warning("{}: is in both {} and data.eval ({}), so the evaluation includes training text.", file.string(),
                    found->second, source.name);
}

data::SequenceSet scoring_sequences(const TextModel& model, const data::TokenDataset& dataset,
                                    const eval::EvalOptions& options, std::int64_t seq_len, bool document_mask) {
  if (options.packed)
    return data::packed(
        dataset,
        {.seq_len = seq_len, .eos = model.eos(), .document_mask = document_mask, .max_tokens = options.max_tokens});
  return data::windows(dataset, {.seq_len = seq_len, .stride = options.stride, .max_tokens = options.max_tokens});
}

std::vector<data::SequenceSet> probe_sequences(const std::vector<data::TokenDataset>& general, std::int64_t seq_len,
                                               std::int64_t max_tokens) {
  if (general.empty()) throw ConfigError("data.general: found no source; expected at least one.");
  for (const data::TokenDataset& dataset : general)
    if (dataset.num_tokens() < seq_len)
      throw ConfigError(
          "{}: found {} tokens in total; expected at least one sequence of seq_len, which is {}. Use more text or a "
          "smaller seq_len.",
          dataset.name(), dataset.num_tokens(), seq_len);
  const auto share = max_tokens / static_cast<std::int64_t>(general.size());
  std::vector<data::SequenceSet> sets;
  for (const data::TokenDataset& dataset : general) {
    sets.push_back(data::windows(
        dataset, {.seq_len = seq_len, .max_tokens = max_tokens > 0 ? std::max<std::int64_t>(share, 1) : 0}));
    eval::require_targets({dataset.name(), sets.back()});
  }
  return sets;
}

void tell_samples(const std::string& stage, const std::vector<data::SequenceSet>& sets) {
  for (const data::SequenceSet& set : sets)
    if (const data::SampleSize size = set.counts().size(); size.is_sample)
      log_info("{:<10} {}: sample of {}", stage, set.name(), data::describe(size));
}

Json samples_json(const std::vector<data::SequenceSet>& sets) {
  Json json = Json::object();
  for (const data::SequenceSet& set : sets) json[set.name()] = data::to_json(set.counts().size());
  return json;
}

std::string names_of(const std::vector<data::SequenceSet>& sets) {
  std::string names;
  for (const data::SequenceSet& set : sets) names += (names.empty() ? "" : "+") + set.name();
  return names;
}

std::vector<method::ProbeBatch> to_batches(const std::vector<data::SequenceSet>& sets, std::int64_t batch_size,
                                           at::Device device, const std::vector<double>& weights) {
  std::vector<method::ProbeBatch> batches;
  for (std::size_t source = 0; source < sets.size(); ++source)
    append_batches(sets[source], numbers_below(sets[source].size()), source, weights, batch_size, device, batches);
  return batches;
}

std::vector<double> general_weights(const config::DataConfig& data) {
  std::vector<double> weights;
  for (const config::GeneralSource& source : data.general) weights.push_back(source.weight.value_or(1.0));
  return weights;
}

Json general_shares(const config::DataConfig& data) {
  const std::vector<double> weights = general_weights(data);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  Json shares = Json::object();
  for (std::size_t i = 0; i < weights.size(); ++i) shares[data.general[i].name]["weight"] = weights[i] / sum;
  return shares;
}

Json mixture_json(const std::vector<config::TrainSource>& sources) {
  const auto json_of = [](const auto& value) { return value ? Json(*value) : Json(); };
  const auto schedule_of = [](const auto& schedule) { return schedule ? schedule->to_json() : Json(); };
  Json json = Json::object();
  for (const config::TrainSource& source : sources)
    json[source.name] = {{"weight", schedule_of(source.weight)},
                         {"epochs", json_of(source.epochs)},
                         {"max_tokens", json_of(source.max_tokens)},
                         {"tag", json_of(source.tag)}};
  return json;
}

std::vector<std::vector<method::ProbeBatch>> to_rounds(const std::vector<data::SequenceSet>& sets,
                                                       std::int64_t batch_size, at::Device device, bool growing,
                                                       const std::vector<double>& weights) {
  if (!growing) return {to_batches(sets, batch_size, device, weights)};
  constexpr std::int64_t fewest = 32;
  constexpr std::size_t most_rounds = 7;
  std::int64_t total = 0;
  for (const data::SequenceSet& set : sets) total += set.size();
  std::size_t num_rounds = 1;
  while (num_rounds < most_rounds && (total >> num_rounds) >= fewest) ++num_rounds;
  std::vector<std::vector<method::ProbeBatch>> rounds(num_rounds);
  for (std::size_t source = 0; source < sets.size(); ++source) {
    std::vector<std::int64_t> order = numbers_below(sets[source].size());
    random_shuffle(order, /*seed=*/0, RandomStream::kProbeOrder, source);
    std::size_t begin = 0;
    for (std::size_t round = 0; round < num_rounds; ++round) {
      const std::size_t denominator = std::size_t{1} << (num_rounds - 1 - round);
      const std::size_t end = (order.size() + denominator - 1) / denominator;
      append_batches(sets[source], std::span(order).subspan(begin, end - begin), source, weights, batch_size, device,
                     rounds[round]);
      begin = end;
    }
  }
  return rounds;
}

data::TrainLoader make_train_loader(const TextModel& model, const config::RunConfig& config, const Datasets& datasets) {
  const WeightSchedule replay = config.train.replay_ratio.value_or(0);
  std::vector<data::TrainSource> sources;
  const double temperature = config.data.temperature;
  const bool has_replay = replay.max() > 0;
  const std::span excluded = datasets.excluded;
  append_sources(model, datasets.train, config.data.train, has_replay ? std::optional(rest_of(replay)) : std::nullopt,
                 temperature, excluded, sources);
  if (has_replay)
    append_sources(model, datasets.replay, config.data.replay, replay, temperature,
                   excluded.empty() ? excluded : excluded.subspan(datasets.train.size()), sources);
  return {std::move(sources),
          {.seq_len = config.seq_len,
           .eos = model.eos(),
           .seed = static_cast<std::uint64_t>(config.seed),
           .packing = config.data.packing,
           .temperature = temperature,
           .document_mask = config.data.document_mask}};
}

}  // namespace adept::run
