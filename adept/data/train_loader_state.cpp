// The position of a TrainLoader as JSON.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "adept/core/error.h"
#include "adept/data/train_loader.h"

namespace adept::data {
namespace {

constexpr std::int64_t kStateVersion = 4;

std::int64_t count_at(const Json& json, const char* key, const std::string& where) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  if (found == json.end() || !found->is_number_integer() || found->get<std::int64_t>() < 0)
    throw DataError("{}: \"{}\" is missing or not a count; this is not the state of a data loader.", where, key);
  return found->get<std::int64_t>();
}

// What a state has of a source: null if it is new.
Json before_of(const Json& saved, const std::string& name) {
  for (const char* list : {"sources", "removed"})
    if (const auto found = saved[list].find(name); found != saved[list].end()) return *found;
  return {};
}

// Whether numbers, or lists of them, differ by rounding at most: equal shares can be computed in several ways.
bool are_close(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) {
    const auto x = a.get<double>(), y = b.get<double>();
    return std::abs(x - y) <= 1e-12 * std::max(std::abs(x), std::abs(y));
  }
  return a.is_array() && b.is_array() ? std::ranges::equal(a, b, are_close) : a == b;
}

void check_state(const Json& saved, const std::string& where) {
  const auto is_table = [&](const char* key) {
    const auto found = saved.is_object() ? saved.find(key) : saved.end();
    return found != saved.end() && found->is_object() &&
           std::all_of(found->begin(), found->end(), [](const Json& source) { return source.is_object(); });
  };
  if (!is_table("sources") || !is_table("removed"))
    throw DataError("{}: has no sources; this is not the state of a data loader.", where);
}

MixtureSpan span_at(const Json& saved, const std::string& where) {
  const Json span = saved.value("schedule", Json());
  if (span.is_null()) return {};
  if (!span.is_array() || span.size() != 2 || !span[0].is_number() || !span[1].is_number() ||
      !(span[0].get<double>() >= 0) || !(span[1].get<double>() > span[0].get<double>()))
    throw DataError("{}: \"schedule\" is {}; expected two ascending positions; the state is damaged.", where,
                    span.dump());
  return {.begin = span[0].get<double>(), .end = span[1].get<double>()};
}

}  // namespace

// A number, or [progress, share] at every point of the schedules.
Json TrainLoader::share_json(std::size_t source) const {
  std::set<double> progresses;
  for (const Source& each : sources_) each.weight.add_progresses(progresses);
  const auto index = static_cast<std::int64_t>(source);
  if (progresses.empty()) return share(index);
  Json shares = Json::array();
  for (const double progress : progresses) shares.push_back({progress, share(index, progress)});
  return shares;
}

Json TrainLoader::state() const {
  Json sources = Json::object();
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    const Source& source = sources_[s];
    const std::optional<std::int64_t> limit = max_sequences(static_cast<std::int64_t>(s));
    sources[source.dataset.name()] = {{"data", source.fingerprint},
                                      {"share", share_json(s)},
                                      {"limit", limit ? Json(*limit) : Json()},
                                      {"epoch", source.count / source.sequences.size()},
                                      {"index", source.count % source.sequences.size()},
                                      {"sequences", source.count},
                                      {"sequences_per_epoch", source.sequences.size()},
                                      {"tokens", source.tokens},
                                      {"anchor", source.count_at_anchor}};
  }
  return Json{{"version", kStateVersion},
              {"seed", options_.seed},
              {"seq_len", options_.seq_len},
              {"eos", options_.eos ? Json(*options_.eos) : Json(nullptr)},
              {"packing", to_string(options_.packing)},
              {"sequences", total_},
              {"anchor", total_at_anchor_},
              {"schedule", std::isfinite(span_.end) ? Json::array({span_.begin, span_.end}) : Json()},
              {"sources", sources},
              {"removed", removed_}};
}

std::vector<std::string> TrainLoader::differences(const Json& saved, OtherMixture other) const {
  const Json now = state();
  std::vector<std::string> problems;
  for (const char* key : {"version", "seed", "seq_len", "eos", "packing"})
    if (!saved.contains(key) || saved[key] != now[key])
      problems.push_back(fmt::format("{} is {} now, but was {}", key, now[key].dump(),
                                     saved.contains(key) ? saved[key].dump() : "not stored"));
  const bool is_strict = other == OtherMixture::kRefused;
  for (const auto& [name, source] : saved["sources"].items())
    if (is_strict && !now["sources"].contains(name)) problems.push_back(fmt::format("source \"{}\" was removed", name));
  for (const auto& [name, source] : now["sources"].items()) {
    const Json before = before_of(saved, name);
    if (before.is_null() || (is_strict && !saved["sources"].contains(name))) {
      if (is_strict) problems.push_back(fmt::format("source \"{}\" is new", name));
      continue;
    }
    if (before.value("data", Json()) != source["data"])
      problems.push_back(fmt::format(
          "source \"{}\": its data (text, tokenizer, tag or excluded documents) has changed{}", name,
          is_strict ? "" : ", so what it has given is unknown; give the new text as a source of another name"));
    if (!is_strict) continue;
    for (const auto& [key, meaning] : {std::pair{"share", "share of the tokens"}, {"limit", "limit of sequences"}})
      if (!are_close(before.value(key, Json()), source[key]))
        problems.push_back(fmt::format("source \"{}\": its {} is {} now, but was {}", name, meaning, source[key].dump(),
                                       before.value(key, Json()).dump()));
  }
  return problems;
}

void TrainLoader::load_state(const Json& saved, const std::string& where, OtherMixture other) {
  check_state(saved, where);
  if (const auto problems = differences(saved, other); !problems.empty()) {
    const bool may_be_allowed = other == OtherMixture::kRefused && differences(saved, OtherMixture::kAllowed).empty();
    throw ConfigError(
        "{}: the run cannot continue exactly, because its training data changed. Restore the data, {}or start a new "
        "run.\n  {}",
        where, may_be_allowed ? "continue with the new mixture (--allow-changed data), " : "",
        fmt::join(problems, "\n  "));
  }
  std::vector<Source> sources = sources_;
  std::int64_t total = 0, total_at_anchor = 0;
  for (Source& source : sources) {
    const Json before = before_of(saved, source.dataset.name());
    if (before.is_null()) continue;
    const std::int64_t count = count_at(before, "sequences", where), per_epoch = source.sequences.size();
    source.count_at_anchor = count_at(before, "anchor", where);
    source.tokens = count_at(before, "tokens", where);
    if (count_at(before, "sequences_per_epoch", where) != per_epoch ||
        count_at(before, "epoch", where) != count / per_epoch ||
        count_at(before, "index", where) != count % per_epoch ||
        (other == OtherMixture::kRefused && count > std::max(source.part.limit, source.count_at_anchor)) ||
        source.count_at_anchor > count)
      throw DataError("{}: the position in source \"{}\" is inconsistent; the state is damaged.", where,
                      source.dataset.name());
    source.count = count;
  }
  Json removed = Json::object();
  for (const char* list : {"removed", "sources"})
    for (const auto& [name, source] : saved[list].items()) {
      if (__builtin_add_overflow(total, count_at(source, "sequences", where), &total) ||
          __builtin_add_overflow(total_at_anchor, count_at(source, "anchor", where), &total_at_anchor))
        throw DataError("{}: the sequences of the sources are too many; the state is damaged.", where);
      const auto has_name = [&](const Source& s) { return s.dataset.name() == name; };
      if (std::ranges::any_of(sources, has_name)) continue;
      count_at(source, "tokens", where);
      if (count_at(source, "sequences_per_epoch", where) == 0)
        throw DataError("{}: source \"{}\" has no sequences; the state is damaged.", where, name);
      removed[name] = source;
    }
  for (const auto& [key, sum] : {std::pair{"sequences", total}, {"anchor", total_at_anchor}})
    if (count_at(saved, key, where) != sum)
      throw DataError("{}: the {} of the sources do not sum to {}; the state is damaged.", where, key,
                      saved[key].dump());
  const MixtureSpan span = span_at(saved, where);
  sources_ = std::move(sources);
  removed_ = std::move(removed);
  total_ = total;
  span_ = span;
  if (other == OtherMixture::kAllowed && !differences(saved, OtherMixture::kRefused).empty()) {
    set_anchor();
  } else {
    total_at_anchor_ = total_at_anchor;
    mixture_ = make_mixture(span_, /*from_here=*/false);
  }
}

}  // namespace adept::data
