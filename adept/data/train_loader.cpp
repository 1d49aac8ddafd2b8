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
    if (source.weight && !(std::isfinite(*source.weight) && *source.weight > 0))
      problems.push_back(
          fmt::format("source \"{}\": the weight is {}; expected a positive number (to disable a source, remove it)",
                      name, *source.weight));
  }
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
  set_shares(sources);
  by_name_.resize(sources_.size());
  std::iota(by_name_.begin(), by_name_.end(), std::size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [&](std::size_t a, std::size_t b) { return sources_[a].dataset.name() < sources_[b].dataset.name(); });
}

void TrainLoader::set_shares(const std::vector<TrainSource>& given) {
  double sum = 0;
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    sources_[s].weight = given[s].weight.value_or(static_cast<double>(sources_[s].sequences_per_epoch));
    sum += sources_[s].weight;
  }
  for (Source& source : sources_) {
    source.share = source.weight / sum;
    if (!(source.share > 0))
      throw ConfigError("the training data: the weight {} of source \"{}\" is negligible compared with the others.",
                        source.weight, source.dataset.name());
  }
}

PackedStream TrainLoader::make_stream(const TokenDataset& dataset) const {
  constexpr RandomStream kStream = RandomStream::kDocumentOrder;
  std::vector<std::int64_t> order = numbers_below(dataset.num_documents());
  random_shuffle(order, options_.seed, kStream, order_salt(dataset.name(), kStream, 0));
  return PackedStream(dataset, options_.eos, std::move(order));
}

std::vector<std::int64_t> TrainLoader::sequence_order(const Source& source, std::int64_t epoch) const {
  constexpr RandomStream kStream = RandomStream::kSequenceOrder;
  if (epoch == 0) return {};
  std::vector<std::int64_t> order = numbers_below(source.sequences_per_epoch);
  random_shuffle(order, options_.seed, kStream, order_salt(source.dataset.name(), kStream, epoch));
  return order;
}

// Sequence k of a source with share w belongs in the slots [floor(k / w), ceil((k + 1) / w)) of the run. Because the
// shares sum to one, taking the earliest deadline first meets all deadlines: the Pfair schedule of one processor
// (Baruah, Cohen, Plaxton, Varvel: Proportionate progress, 1996).
std::size_t TrainLoader::pick_source() const {
  std::size_t best = by_name_.front();
  std::pair<bool, double> best_key = {true, HUGE_VAL};
  for (const std::size_t s : by_name_) {
    const Source& source = sources_[s];
    const auto count = static_cast<double>(source.count);
    const bool early = floor_of(count / source.share) > static_cast<double>(total_);
    const std::pair<bool, double> key = {early, ceil_of((count + 1) / source.share)};
    if (key < best_key) {
      best = s;
      best_key = key;
    }
  }
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
  const double slots = ceil_of(of_first / first.share);
  if (!(epochs > 0) || !(slots <= 9e15))
    throw ConfigError("the number of epochs is {}; expected a positive number with at most 9e15 sequences.", epochs);
  return static_cast<std::int64_t>(slots);
}

bool TrainLoader::repeats_within(std::int64_t source, std::int64_t num_sequences) const {
  return ceil_of(at(source).share * static_cast<double>(num_sequences)) >
         static_cast<double>(at(source).sequences_per_epoch);
}

double TrainLoader::epochs(std::int64_t source) const {
  return static_cast<double>(at(source).count) / static_cast<double>(at(source).sequences_per_epoch);
}

Json TrainLoader::state() const {
  Json sources = Json::object();
  for (const Source& source : sources_)
    sources[source.dataset.name()] = {{"data", source.dataset.fingerprint()},
                                      {"share", source.share},
                                      {"epoch", source.count / source.sequences_per_epoch},
                                      {"index", source.count % source.sequences_per_epoch},
                                      {"sequences", source.count}};
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
      if (before->value("share", Json()) != source["share"])
        problems.push_back(fmt::format("source \"{}\": its share of the sequences is {} now, but was {}", name,
                                       source["share"].dump(), before->value("share", Json()).dump()));
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
        count_at(state, "index", where) != count % source.sequences_per_epoch ||
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
  std::string table = fmt::format("{:<{}}  {:>12}  {:>16}  {:>16}  {:>7}\n", "source", width, "documents",
                                  "tokens/epoch", "sequences/epoch", "share");
  for (const Source& source : sources_)
    table += fmt::format("{:<{}}  {:>12}  {:>16}  {:>16}  {:>6.2f}%\n", source.dataset.name(), width,
                         format_count(source.dataset.num_documents()), format_count(source.stream.num_tokens()),
                         format_count(source.sequences_per_epoch), 100 * source.share);
  return table;
}

}  // namespace adept::data
