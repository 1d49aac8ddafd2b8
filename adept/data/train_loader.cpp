#include "adept/data/train_loader.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/progress.h"
#include "adept/core/random.h"

namespace adept::data {
namespace {

constexpr std::int64_t kStateVersion = 2;

// A multiple of 1 / share that should be an integer may be off by rounding.
double slack(double slots) { return 4e-15 * std::max(1.0, slots); }
double floor_of(double slots) { return std::floor(slots + slack(slots)); }
double ceil_of(double slots) { return std::ceil(slots - slack(slots)); }

bool is_positive(double value) { return std::isfinite(value) && value > 0; }

/// Depends on the name, not on the position in the list, so a source keeps its order when others are added or removed.
std::uint64_t order_salt(const std::string& name, RandomStream stream, std::int64_t epoch) {
  const std::string digits = hash_of(name).substr(std::string_view("xxh3:").size(), 16);
  return random_bits(std::stoull(digits, nullptr, 16), stream, static_cast<std::uint64_t>(epoch));
}

std::vector<std::int64_t> numbers_below(std::int64_t count) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

std::int64_t num_sequences_of(std::int64_t num_tokens, std::int64_t seq_len) {
  return num_tokens / seq_len + (num_tokens % seq_len >= 2 ? 1 : 0);
}

std::string join_problems(const std::vector<std::string>& problems) {
  std::string list;
  for (const std::string& problem : problems) list += "\n  " + problem;
  return list;
}

/// Tokens of an epoch: all but a single last one.
std::int64_t tokens_of_epoch(std::int64_t num_tokens, std::int64_t seq_len) {
  return num_tokens - (num_tokens % seq_len == 1 ? 1 : 0);
}

/// The most sequences that the limits of a source allow, given its sequences and tokens of an epoch.
std::int64_t limit_of(const TrainSource& source, std::int64_t sequences, std::int64_t tokens, std::int64_t seq_len) {
  std::int64_t limit = MixturePart::kNoLimit;
  if (source.epochs)
    limit = static_cast<std::int64_t>(std::min(ceil_of(*source.epochs * static_cast<double>(sequences)), 9e15));
  if (source.max_tokens)
    limit = std::min(limit, *source.max_tokens / tokens * sequences + *source.max_tokens % tokens / seq_len);
  return limit;
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
    if (source.epochs && !is_positive(*source.epochs))
      problems.push_back(fmt::format("source \"{}\": epochs is {}; expected a positive number", name, *source.epochs));
    if (source.max_tokens && *source.max_tokens <= 0)
      problems.push_back(
          fmt::format("source \"{}\": max_tokens is {}; expected a positive number", name, *source.max_tokens));
    if (source.weight && !is_positive(*source.weight))
      problems.push_back(
          fmt::format("source \"{}\": the weight is {}; expected a positive number (to disable a source, remove it)",
                      name, *source.weight));
  }
  if (!is_positive(options.temperature))
    problems.push_back(fmt::format("the temperature is {}; expected a positive number", options.temperature));
  return problems;
}

std::int64_t count_at(const Json& json, const char* key, const std::string& where) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  if (found == json.end() || !found->is_number_integer() || found->get<std::int64_t>() < 0)
    throw DataError("{}: \"{}\" is missing or not a count; this is not the state of a data loader.", where, key);
  return found->get<std::int64_t>();
}

}  // namespace

TrainLoader::TrainLoader(std::vector<TrainSource> sources, TrainLoaderOptions options) : options_(options) {
  std::vector<std::string> problems = find_problems(sources, options_);
  if (!problems.empty()) throw ConfigError("the training data:{}", join_problems(problems));
  for (const TrainSource& given : sources) {
    Source source{.dataset = given.dataset, .stream = make_stream(given.dataset)};
    source.sequences_per_epoch = num_sequences_of(source.stream.num_tokens(), options_.seq_len);
    if (source.sequences_per_epoch == 0)
      problems.push_back(fmt::format("source \"{}\" has {} documents with {} tokens; expected at least 2 tokens",
                                     given.dataset.name(), given.dataset.num_documents(), given.dataset.num_tokens()));
    sources_.push_back(std::move(source));
  }
  if (!problems.empty()) throw ConfigError("the training data:{}", join_problems(problems));
  set_mixture(sources);
  by_name_.resize(sources_.size());
  std::iota(by_name_.begin(), by_name_.end(), std::size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [&](std::size_t a, std::size_t b) { return sources_[a].dataset.name() < sources_[b].dataset.name(); });
}

void TrainLoader::set_mixture(const std::vector<TrainSource>& given) {
  std::vector<std::string> problems;
  std::vector<MixturePart> parts;
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    Source& source = sources_[s];
    source.limit = limit_of(given[s], source.sequences_per_epoch, tokens_per_epoch(source), options_.seq_len);
    if (source.limit == 0)
      problems.push_back(fmt::format("source \"{}\": max_tokens is {}; expected at least a sequence, {} tokens",
                                     given[s].dataset.name(), *given[s].max_tokens,
                                     std::min(options_.seq_len, tokens_per_epoch(source))));
    const double size = std::pow(static_cast<double>(source.sequences_per_epoch), 1 / options_.temperature);
    parts.push_back({.weight = given[s].weight.value_or(size), .limit = source.limit});
  }
  if (!problems.empty()) throw ConfigError("the training data:{}", join_problems(problems));
  mixture_ = Mixture(parts);
  for (std::size_t s = 0; s < sources_.size(); ++s)
    if (!(mixture_.share(s) > 0))
      throw ConfigError("the training data: the weight {} of source \"{}\" is negligible compared with the others.",
                        parts[s].weight, sources_[s].dataset.name());
}

PackedStream TrainLoader::make_stream(const TokenDataset& dataset) const {
  constexpr RandomStream kStream = RandomStream::kDocumentOrder;
  std::vector<std::int64_t> order = numbers_below(dataset.num_documents());
  random_shuffle(order, options_.seed, kStream, order_salt(dataset.name(), kStream, 0));
  return PackedStream(dataset, options_.eos, std::move(order));
}

std::int64_t TrainLoader::tokens_per_epoch(const Source& source) const {
  return tokens_of_epoch(source.stream.num_tokens(), options_.seq_len);
}

std::vector<std::int64_t> TrainLoader::sequence_order(const Source& source, std::int64_t epoch) const {
  constexpr RandomStream kStream = RandomStream::kSequenceOrder;
  if (epoch == 0) return {};
  std::vector<std::int64_t> order = numbers_below(source.sequences_per_epoch);
  random_shuffle(order, options_.seed, kStream, order_salt(source.dataset.name(), kStream, epoch));
  return order;
}

// Sequence k of a source belongs in the slots of the run in which the ideal mixture gives it: from floor(where it has
// given k) to ceil(where it has given k + 1). Because the shares sum to one, taking the earliest deadline first meets
// all deadlines: the Pfair schedule of one processor (Baruah, Cohen, Plaxton, Varvel: Proportionate progress, 1996).
std::size_t TrainLoader::pick_source() const {
  std::size_t best = sources_.size();
  std::pair<bool, double> best_key = {true, HUGE_VAL};
  for (const std::size_t s : by_name_) {
    const Source& source = sources_[s];
    if (source.count >= source.limit) continue;
    const auto count = static_cast<double>(source.count);
    const bool early = floor_of(mixture_.position(s, count)) > static_cast<double>(total_);
    const std::pair<bool, double> key = {early, ceil_of(mixture_.position(s, count + 1))};
    if (key < best_key) {
      best = s;
      best_key = key;
    }
  }
  ADEPT_CHECK(best < sources_.size(), "{} sequences are all that the sources' limits allow", total_);
  return best;
}

Sequence TrainLoader::next_of(std::size_t source_index) {
  Source& source = sources_[source_index];
  const std::int64_t epoch = source.count / source.sequences_per_epoch;
  const std::int64_t index = source.count % source.sequences_per_epoch;
  if (epoch != source.epoch) {
    source.order = sequence_order(source, epoch);
    source.epoch = epoch;
  }
  const std::int64_t place = source.order.empty() ? index : source.order[static_cast<std::size_t>(index)];
  const std::int64_t begin = place * options_.seq_len;
  Sequence sequence;
  sequence.source = static_cast<std::int32_t>(source_index);
  sequence.tokens.resize(static_cast<std::size_t>(std::min(options_.seq_len, source.stream.num_tokens() - begin)));
  source.stream.read(begin, sequence.tokens);
  if (options_.document_mask)
    sequence.document_starts = source.stream.starts_within(begin, std::ssize(sequence.tokens));
  ++source.count;
  ++total_;
  return sequence;
}

std::vector<Sequence> TrainLoader::next_step(std::int64_t num_sequences) {
  ADEPT_CHECK(num_sequences >= 1, "{} sequences", num_sequences);
  std::vector<Sequence> sequences;
  sequences.reserve(static_cast<std::size_t>(num_sequences));
  for (std::int64_t i = 0; i < num_sequences; ++i) sequences.push_back(next_of(pick_source()));
  return sequences;
}

std::int64_t TrainLoader::sequences_for_epochs(double epochs) const {
  const Source& first = sources_.front();
  const double of_first = ceil_of(epochs * static_cast<double>(first.sequences_per_epoch));
  const bool is_allowed = of_first <= static_cast<double>(first.limit);
  const double slots = is_allowed ? ceil_of(mixture_.position(0, of_first)) : of_first;
  if (!(epochs > 0) || !(slots <= 9e15))
    throw ConfigError("the number of epochs is {}; expected a positive number with at most 9e15 sequences.", epochs);
  if (!is_allowed)
    throw ConfigError(
        "the number of epochs is {}, but the limits of source \"{}\" (epochs, max_tokens) allow {:.4g}; expected at "
        "most that, a higher limit, or max_steps.",
        epochs, first.dataset.name(),
        static_cast<double>(first.limit) / static_cast<double>(first.sequences_per_epoch));
  return static_cast<std::int64_t>(slots);
}

double TrainLoader::expected(std::int64_t source, std::int64_t num_sequences) const {
  return mixture_.amount(static_cast<std::size_t>(source), static_cast<double>(num_sequences));
}

std::optional<std::int64_t> TrainLoader::max_sequences() const {
  std::int64_t sum = 0;
  for (const Source& source : sources_)
    if (source.limit == MixturePart::kNoLimit || __builtin_add_overflow(sum, source.limit, &sum)) return std::nullopt;
  return sum;
}

bool TrainLoader::repeats_within(std::int64_t source, std::int64_t num_sequences) const {
  return ceil_of(expected(source, num_sequences)) > static_cast<double>(at(source).sequences_per_epoch);
}

std::int64_t TrainLoader::num_tokens(std::int64_t index) const {
  const Source& source = at(index);
  const std::int64_t epochs = source.count / source.sequences_per_epoch;
  const std::int64_t in_epoch = source.count % source.sequences_per_epoch;
  const std::int64_t tail = source.sequences_per_epoch - 1;  // the only sequence that may be shorter
  const std::int64_t missing = source.sequences_per_epoch * options_.seq_len - tokens_per_epoch(source);
  const std::vector<std::int64_t> order = sequence_order(source, epochs);
  const auto end = order.begin() + (order.empty() ? 0 : in_epoch);
  const bool has_tail = std::find(order.begin(), end, tail) != end;  // the first epoch gives it last
  return epochs * tokens_per_epoch(source) + in_epoch * options_.seq_len - (has_tail ? missing : 0);
}

double TrainLoader::epochs(std::int64_t source) const {
  return static_cast<double>(at(source).count) / static_cast<double>(at(source).sequences_per_epoch);
}

Json TrainLoader::state() const {
  Json sources = Json::object();
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    const Source& source = sources_[s];
    sources[source.dataset.name()] = {{"data", source.dataset.fingerprint()},
                                      {"share", mixture_.share(s)},
                                      {"limit", source.limit == MixturePart::kNoLimit ? Json() : Json(source.limit)},
                                      {"epoch", source.count / source.sequences_per_epoch},
                                      {"index", source.count % source.sequences_per_epoch},
                                      {"sequences", source.count}};
  }
  return Json{{"version", kStateVersion},    {"seed", options_.seed},
              {"seq_len", options_.seq_len}, {"eos", options_.eos ? Json(*options_.eos) : Json(nullptr)},
              {"sequences", total_},         {"sources", sources}};
}

std::string TrainLoader::differences(const Json& saved) const {
  const Json now = state();
  std::vector<std::string> problems;
  for (const char* key : {"version", "seed", "seq_len", "eos"})
    if (!saved.contains(key) || saved[key] != now[key])
      problems.push_back(fmt::format("{} is {} now, but was {}", key, now[key].dump(),
                                     saved.contains(key) ? saved[key].dump() : "not stored"));
  for (const auto& [name, source] : saved["sources"].items())
    if (!now["sources"].contains(name)) problems.push_back(fmt::format("source \"{}\" was removed", name));
  for (const auto& [name, source] : now["sources"].items()) {
    const auto before = saved["sources"].find(name);
    if (before == saved["sources"].end()) {
      problems.push_back(fmt::format("source \"{}\" is new", name));
    } else {
      if (before->value("data", Json()) != source["data"])
        problems.push_back(fmt::format("source \"{}\": its data (text or tokenizer) has changed", name));
      for (const auto& [key, meaning] : {std::pair{"share", "share of the sequences"}, {"limit", "limit of sequences"}})
        if (before->value(key, Json()) != source[key])
          problems.push_back(fmt::format("source \"{}\": its {} is {} now, but was {}", name, meaning,
                                         source[key].dump(), before->value(key, Json()).dump()));
    }
  }
  return join_problems(problems);
}

void TrainLoader::load_state(const Json& saved, const std::string& where) {
  const auto saved_sources = saved.is_object() ? saved.find("sources") : saved.end();
  if (saved_sources == saved.end() || !saved_sources->is_object() ||
      !std::all_of(saved_sources->begin(), saved_sources->end(), [](const Json& s) { return s.is_object(); }))
    throw DataError("{}: has no sources; this is not the state of a data loader.", where);
  if (const std::string list = differences(saved); !list.empty())
    throw ConfigError(
        "{}: the run cannot continue exactly, because its training data changed. Restore the data, or start a new "
        "run.{}",
        where, list);
  std::vector<std::int64_t> counts;
  std::int64_t total = 0;
  for (const Source& source : sources_) {
    const Json& state = (*saved_sources)[source.dataset.name()];
    const std::int64_t count = count_at(state, "sequences", where);
    if (count_at(state, "epoch", where) != count / source.sequences_per_epoch ||
        count_at(state, "index", where) != count % source.sequences_per_epoch || count > source.limit ||
        __builtin_add_overflow(total, count, &total))
      throw DataError("{}: the position in source \"{}\" is inconsistent; the state is damaged.", where,
                      source.dataset.name());
    counts.push_back(count);
  }
  if (count_at(saved, "sequences", where) != total)
    throw DataError("{}: the sequences of the sources do not sum to {}; the state is damaged.", where,
                    saved["sequences"].dump());
  for (std::size_t s = 0; s < sources_.size(); ++s) sources_[s].count = counts[s];
  total_ = total;
}

std::string TrainLoader::format_mixture() const {
  std::size_t width = 6;
  for (const Source& source : sources_) width = std::max(width, source.dataset.name().size());
  std::string table = fmt::format("{:<{}}  {:>12}  {:>16}  {:>16}  {:>12}  {:>7}\n", "source", width, "documents",
                                  "tokens/epoch", "sequences/epoch", "at most", "share");
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    const Source& source = sources_[s];
    table +=
        fmt::format("{:<{}}  {:>12}  {:>16}  {:>16}  {:>12}  {:>6.2f}%\n", source.dataset.name(), width,
                    format_count(source.dataset.num_documents()), format_count(source.stream.num_tokens()),
                    format_count(source.sequences_per_epoch),
                    source.limit == MixturePart::kNoLimit ? "" : format_count(source.limit), 100 * mixture_.share(s));
  }
  return table;
}

}  // namespace adept::data
