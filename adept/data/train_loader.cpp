#include "adept/data/train_loader.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/random.h"

namespace adept::data {
namespace {

// A multiple of 1 / share that should be an integer may be off by rounding.
double slack(double slots) { return 4e-15 * std::max(1.0, slots); }
double floor_of(double slots) { return std::floor(slots + slack(slots)); }
double ceil_of(double slots) { return std::isfinite(slots) ? std::ceil(slots - slack(slots)) : slots; }

constexpr double kMostSequences = 9e15, kLeastShare = 1e-15;

bool is_positive(double value) { return std::isfinite(value) && value > 0; }

/// Depends on the name, not on the position in the list, so a source keeps its order when others are added or removed.
std::uint64_t order_salt(const std::string& name, RandomStream stream, std::int64_t epoch) {
  const std::string digits = hash_of(name).substr(std::string_view("xxh3:").size(), 16);
  return random_bits(std::stoull(digits, nullptr, 16), stream, static_cast<std::uint64_t>(epoch));
}

std::string fingerprint_of(const TrainSource& source) {
  std::string fingerprint = source.dataset.fingerprint();
  if (!source.tag.ids.empty())
    fingerprint += fmt::format(" tag {} {}", source.tag.position, fmt::join(source.tag.ids, " "));
  if (!source.excluded.empty())
    fingerprint += fmt::format(" without {}", hash_of(std::as_bytes(std::span(source.excluded))));
  return fingerprint;
}

std::string join_problems(const std::vector<std::string>& problems) {
  std::string list;
  for (const std::string& problem : problems) list += "\n  " + problem;
  return list;
}

std::vector<std::string> find_problems(const std::vector<TrainSource>& sources, const TrainLoaderOptions& options) {
  std::vector<std::string> problems;
  if (sources.empty()) problems.push_back("found no source; expected at least one");
  if (options.seq_len < 2 || options.seq_len > (std::int64_t{1} << 30))
    problems.push_back(fmt::format("seq_len is {}; expected 2 to {} tokens", options.seq_len, std::int64_t{1} << 30));
  const auto num_weights = std::count_if(sources.begin(), sources.end(), [](const auto& s) { return s.weight; });
  std::set<std::string> names;
  for (const TrainSource& source : sources) {
    const std::string& name = source.dataset.name();
    if (!names.insert(name).second) problems.push_back(fmt::format("two sources are named \"{}\"; rename one", name));
    if (options.eos && (*options.eos < 0 || *options.eos >= source.dataset.vocab_size()))
      problems.push_back(fmt::format("source \"{}\": the EOS id {} is outside its vocabulary of {} ids", name,
                                     *options.eos, source.dataset.vocab_size()));
    if (!source.weight && num_weights > 0)
      problems.push_back(
          fmt::format("source \"{}\" has no weight, but others have; set it for all sources or for none", name));
    if (const std::int64_t tag = std::ssize(source.tag.ids); tag > 0 && tag >= options.seq_len - 1)
      problems.push_back(
          fmt::format("source \"{}\": its tag has {} tokens; expected fewer than seq_len - 1, which is {}, so that a "
                      "sequence has a token to predict",
                      name, tag, options.seq_len - 1));
    if (source.epochs && !is_positive(*source.epochs))
      problems.push_back(fmt::format("source \"{}\": epochs is {}; expected a positive number", name, *source.epochs));
    if (source.max_tokens && *source.max_tokens <= 0)
      problems.push_back(
          fmt::format("source \"{}\": max_tokens is {}; expected a positive number", name, *source.max_tokens));
    if (source.weight && !is_positive(source.weight->max()))
      problems.push_back(
          fmt::format("source \"{}\": the weight is {}; expected a positive number (to disable a source, remove it)",
                      name, source.weight->max()));
  }
  if (!is_positive(options.temperature))
    problems.push_back(fmt::format("the temperature is {}; expected a positive number", options.temperature));
  return problems;
}

ConfigError impossible_epochs(double epochs) {
  return ConfigError("the number of epochs is {}; expected a positive number with at most 9e15 sequences.", epochs);
}

}  // namespace

TrainLoader::TrainLoader(std::vector<TrainSource> sources, TrainLoaderOptions options) : options_(options) {
  std::vector<std::string> problems = find_problems(sources, options_);
  if (!problems.empty()) throw ConfigError("the training data:{}", join_problems(problems));
  for (const TrainSource& given : sources) {
    Source source = make_source(given);
    if (source.sequences.empty())
      problems.push_back(fmt::format(
          "source \"{}\" has {} documents with {} tokens{}; expected at least 2 tokens, the second of which is trained "
          "on",
          given.dataset.name(), given.dataset.num_documents(), given.dataset.num_tokens(),
          given.excluded.empty() ? "" : fmt::format(", of which {} documents are left out", given.excluded.size())));
    sources_.push_back(std::move(source));
  }
  if (!problems.empty()) throw ConfigError("the training data:{}", join_problems(problems));
  set_parts(sources);
  mixture_ = make_mixture(span_, /*from_here=*/false);
  by_name_.resize(sources_.size());
  std::iota(by_name_.begin(), by_name_.end(), std::size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [&](std::size_t a, std::size_t b) { return sources_[a].dataset.name() < sources_[b].dataset.name(); });
}

std::vector<double> weights_by_size(std::span<const TokenDataset> datasets, std::span<const double> tokens,
                                    double temperature) {
  std::vector<double> weights(tokens.begin(), tokens.end());
  if (temperature == 1) return weights;  // exact
  // Relative to the largest source, so that no power overflows.
  for (double& weight : weights) weight = std::pow(weight / std::ranges::max(tokens), 1 / temperature);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::string> problems;
  for (std::size_t i = 0; i < weights.size(); ++i)
    if (!(weights[i] / sum > kLeastShare))
      problems.push_back(
          fmt::format("source \"{}\" gets {:.2g} of the tokens with data.temperature {}; expected a higher "
                      "temperature, or a weight for each source",
                      datasets[i].name(), weights[i] / sum, temperature));
  if (!problems.empty()) throw ConfigError("the training data:{}", join_problems(problems));
  return weights;
}

void TrainLoader::set_parts(const std::vector<TrainSource>& given) {
  std::vector<std::string> problems;
  double sum = 0;
  std::vector<TokenDataset> datasets;
  std::vector<double> sizes;
  for (const Source& source : sources_) {
    datasets.push_back(source.dataset);
    sizes.push_back(static_cast<double>(source.tokens_per_epoch));
  }
  const bool has_weights = given.front().weight.has_value();  // all of them or none
  const std::vector<double> by_size = has_weights ? sizes : weights_by_size(datasets, sizes, options_.temperature);
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    Source& source = sources_[s];
    const auto tokens = static_cast<double>(source.tokens_per_epoch);
    source.weight = given[s].weight.value_or(by_size[s]);
    source.part = {.weight = source.weight.scaled(static_cast<double>(source.sequences.size()) / tokens),
                   .limit = limit_of(given[s], source)};
    sum += source.part.weight.max();
    if (source.part.limit == 0)
      problems.push_back(fmt::format("source \"{}\": max_tokens is {}; expected at least a sequence, {} tokens",
                                     given[s].dataset.name(), *given[s].max_tokens,
                                     std::min(options_.seq_len, source.tokens_per_epoch)));
  }
  for (const Source& source : sources_)
    if (!(source.part.weight.max() / sum > 0))
      problems.push_back(
          fmt::format("source \"{}\": its weight is negligible compared with the others", source.dataset.name()));
  if (!problems.empty()) throw ConfigError("the training data:{}", join_problems(problems));
}

bool TrainLoader::has_schedule() const {
  return std::ranges::any_of(sources_, [](const Source& source) { return !source.part.weight.is_constant(); });
}

// From the position so far, or from the anchor.
Mixture TrainLoader::make_mixture(MixtureSpan span, bool from_here) const {
  std::vector<MixturePart> parts;
  MixtureStart start{.position = static_cast<double>(from_here ? total_ : total_at_anchor_), .amounts = {}};
  for (const Source& source : sources_) {
    parts.push_back(source.part);
    start.amounts.push_back(static_cast<double>(from_here ? source.count : source.count_at_anchor));
  }
  return Mixture(parts, span, std::move(start));
}

void TrainLoader::plan(std::int64_t first, std::int64_t last) {
  const MixtureSpan span{.begin = static_cast<double>(first), .end = static_cast<double>(last)};
  if (!has_schedule() || span == span_) return;
  span_ = span;
  set_anchor();
}

TrainLoader::Source TrainLoader::make_source(const TrainSource& given) const {
  const TokenDataset& dataset = given.dataset;
  constexpr RandomStream kStream = RandomStream::kDocumentOrder;
  std::vector<std::int64_t> order = numbers_below(dataset.num_documents());
  std::erase_if(order, [&](std::int64_t i) { return std::ranges::binary_search(given.excluded, i); });
  random_shuffle(order, options_.seed, kStream, order_salt(dataset.name(), kStream, 0));
  Source source{.dataset = dataset,
                .fingerprint = fingerprint_of(given),
                .sequences = packed(dataset, {.seq_len = options_.seq_len,
                                              .eos = options_.eos,
                                              .document_mask = options_.document_mask,
                                              .packing = options_.packing,
                                              .tag = given.tag,
                                              .order = std::move(order)})};
  for (std::int64_t i = 0; i < source.sequences.size(); ++i) source.tokens_per_epoch += source.sequences.length(i);
  return source;
}

// The most sequences that the limits of a source allow.
std::int64_t TrainLoader::limit_of(const TrainSource& given, const Source& source) const {
  const std::int64_t per_epoch = source.sequences.size();
  std::int64_t limit = MixturePart::kNoLimit;
  if (given.epochs)
    limit = static_cast<std::int64_t>(std::clamp(ceil_of(*given.epochs * static_cast<double>(per_epoch)), 1.0, 9e15));
  if (given.max_tokens) {
    const std::int64_t epochs = *given.max_tokens / source.tokens_per_epoch;
    const std::vector<std::int64_t> order = sequence_order(source, epochs);
    std::int64_t left = *given.max_tokens % source.tokens_per_epoch, fit = 0;
    while ((left -= source.length(order, fit)) >= 0) ++fit;
    limit = std::min(limit, epochs * per_epoch + fit);
  }
  return limit;
}

std::vector<std::int64_t> TrainLoader::sequence_order(const Source& source, std::int64_t epoch) const {
  constexpr RandomStream kStream = RandomStream::kSequenceOrder;
  if (epoch == 0 && options_.packing == Packing::kConcat) return {};  // the documents are shuffled
  std::vector<std::int64_t> order = numbers_below(source.sequences.size());
  random_shuffle(order, options_.seed, kStream, order_salt(source.dataset.name(), kStream, epoch));
  return order;
}

// Sequence k of a source belongs in the slots of the run in which the ideal mixture gives it: from floor(where it has
// given k) to ceil(where it has given k + 1). Because the shares sum to one, taking the earliest deadline first meets
// all deadlines: the Pfair schedule of one processor (Baruah, Cohen, Plaxton, Varvel: Proportionate progress, 1996).
std::size_t TrainLoader::pick_source(std::span<const std::int64_t> counts, std::int64_t total) const {
  std::size_t best = sources_.size();
  std::pair<bool, double> best_key;
  for (const std::size_t s : by_name_) {
    if (counts[s] >= sources_[s].part.limit) continue;
    const auto count = static_cast<double>(counts[s]);
    const bool early = floor_of(mixture_.position(s, count)) > static_cast<double>(total);
    const std::pair<bool, double> key = {early, ceil_of(mixture_.position(s, count + 1))};
    if (best == sources_.size() || key < best_key) {
      best = s;
      best_key = key;
    }
  }
  ADEPT_CHECK(best < sources_.size(), "{} sequences are all that the sources' limits allow", total);
  return best;
}

// The sequence that a source gives after `count` others.
std::int64_t TrainLoader::sequence_at(Source& source, std::int64_t count) const {
  const std::int64_t epoch = count / source.sequences.size();
  auto order = source.orders.find(epoch);
  if (order == source.orders.end()) {
    if (source.orders.size() == 2) source.orders.erase(source.orders.begin());
    order = source.orders.emplace(epoch, sequence_order(source, epoch)).first;
  }
  return Source::place(order->second, count % source.sequences.size());
}

std::vector<TrainLoader::Place> TrainLoader::upcoming(std::int64_t num_sequences, std::int64_t skip) {
  std::vector<std::int64_t> counts;
  for (const Source& source : sources_) counts.push_back(source.count);
  std::vector<Place> places;
  for (std::int64_t i = 0; i < skip + num_sequences; ++i) {
    const std::size_t s = pick_source(counts, total_ + i);
    const std::int64_t count = counts[s]++;
    if (i >= skip) places.push_back({static_cast<std::int32_t>(s), sequence_at(sources_[s], count)});
  }
  return places;
}

Sequence TrainLoader::read(const Place& place) const {
  Sequence sequence = at(place.source).sequences[place.sequence];
  sequence.source = place.source;
  return sequence;
}

void TrainLoader::advance(std::span<const Place> places) {
  for (const Place& place : places) {
    Source& source = sources_.at(static_cast<std::size_t>(place.source));
    ++source.count;
    source.tokens += source.sequences.length(place.sequence);
  }
  total_ += std::ssize(places);
}

std::vector<Sequence> TrainLoader::next_step(std::int64_t num_sequences) {
  ADEPT_CHECK(num_sequences >= 1, "{} sequences", num_sequences);
  const std::vector<Place> places = upcoming(num_sequences);
  std::vector<Sequence> sequences;
  sequences.reserve(places.size());
  for (const Place& place : places) sequences.push_back(read(place));
  advance(places);
  return sequences;
}

std::int64_t TrainLoader::sequences_for_epochs(double epochs, std::int64_t first) const {
  const Source& source = sources_.front();
  const double amount = ceil_of(epochs * static_cast<double>(source.sequences.size()));
  if (!(epochs > 0) || !(amount <= kMostSequences)) throw impossible_epochs(epochs);
  if (amount > static_cast<double>(source.part.limit))
    throw ConfigError(
        "the number of epochs is {}, but the limits of source \"{}\" (epochs, max_tokens) allow {:.4g}; expected at "
        "most that, a higher limit, or max_steps.",
        epochs, source.dataset.name(),
        static_cast<double>(source.part.limit) / static_cast<double>(source.sequences.size()));
  const auto wanted = static_cast<std::int64_t>(amount);
  std::optional<std::int64_t> slots = shortest(wanted, first, /*from_here=*/false);
  const bool is_planned = slots && static_cast<double>(*slots) == span_.end;
  if (has_schedule() && !is_planned) slots = shortest(wanted, first, /*from_here=*/true);
  if (!slots) throw impossible_epochs(epochs);
  return *slots;
}

// The fewest sequences in total, of a training from `first` to there, with `amount` of the first source.
std::optional<std::int64_t> TrainLoader::shortest(std::int64_t amount, std::int64_t first, bool from_here) const {
  if (!has_schedule()) {
    const double slots = ceil_of(mixture_.position(0, static_cast<double>(amount)));
    return slots <= kMostSequences ? std::optional(static_cast<std::int64_t>(slots)) : std::nullopt;
  }
  if (amount <= sources_.front().count) return amount < sources_.front().count ? total_ - 1 : total_;
  const auto is_enough = [&](std::int64_t last) {
    const auto end = static_cast<double>(last);
    const double given = make_mixture({static_cast<double>(first), end}, from_here).amount(0, end);
    return given + slack(given) >= static_cast<double>(amount);
  };
  std::int64_t low = std::max(total_, first), step = 1;  // `low` is not enough
  while (!is_enough(low + step)) {
    step *= 2;
    if (static_cast<double>(low + step) > kMostSequences) return std::nullopt;
  }
  std::int64_t high = low + step;
  while (high - low > 1) (is_enough(std::midpoint(low, high)) ? high : low) = std::midpoint(low, high);
  return high;
}

double TrainLoader::expected(std::int64_t source, std::int64_t num_sequences) const {
  return mixture_.amount(static_cast<std::size_t>(source), static_cast<double>(num_sequences));
}

std::optional<std::int64_t> TrainLoader::max_sequences(std::int64_t source) const {
  const std::int64_t limit = at(source).part.limit;
  return limit == MixturePart::kNoLimit ? std::nullopt : std::optional(limit);
}

std::optional<std::int64_t> TrainLoader::max_sequences() const {
  std::int64_t sum = total_;
  for (const Source& source : sources_) {
    const std::int64_t left = std::max<std::int64_t>(0, source.part.limit - source.count);
    if (source.part.limit == MixturePart::kNoLimit || __builtin_add_overflow(sum, left, &sum)) return std::nullopt;
  }
  return sum;
}

bool TrainLoader::repeats_within(std::int64_t source, std::int64_t num_sequences) const {
  return ceil_of(expected(source, num_sequences)) > static_cast<double>(at(source).sequences.size());
}

double TrainLoader::epochs(std::int64_t source) const {
  return static_cast<double>(at(source).count) / static_cast<double>(at(source).sequences.size());
}

std::vector<RemovedSource> TrainLoader::removed() const {
  std::vector<RemovedSource> list;
  for (const auto& [name, source] : removed_.items()) {
    const auto sequences = source.at("sequences").get<std::int64_t>();
    list.push_back({.name = name,
                    .sequences = sequences,
                    .tokens = source.at("tokens").get<std::int64_t>(),
                    .epochs = static_cast<double>(sequences) / source.at("sequences_per_epoch").get<double>()});
  }
  return list;
}

double TrainLoader::share(std::int64_t source, double progress) const {
  double sum = 0;
  for (const Source& each : sources_) sum += each.weight.at(progress);
  return at(source).weight.at(progress) / sum;
}

// The mixture continues from the position so far.
void TrainLoader::set_anchor() {
  for (Source& source : sources_) source.count_at_anchor = source.count;
  for (auto& [name, source] : removed_.items()) source["anchor"] = source["sequences"];
  total_at_anchor_ = total_;
  mixture_ = make_mixture(span_, /*from_here=*/true);
}

double TrainLoader::split_share(std::int64_t source) const {
  const SequenceCounts& counts = at(source).sequences.counts();
  return static_cast<double>(counts.split_documents) / static_cast<double>(counts.documents);
}

double TrainLoader::padding_share(std::int64_t source) const {
  const double positions = static_cast<double>(at(source).sequences.size()) * static_cast<double>(options_.seq_len);
  return 1 - static_cast<double>(at(source).tokens_per_epoch) / positions;
}

}  // namespace adept::data
