#include "adept/run/training_text.h"

#include <algorithm>
#include <iterator>

#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/data/contamination.h"
#include "adept/data/duplicates.h"
#include "adept/dist/process_group.h"

namespace adept::run {
namespace {

using Documents = std::vector<std::int64_t>;

Json identities(const std::vector<data::TokenDataset>& datasets) {
  Json json = Json::array();
  for (const data::TokenDataset& dataset : datasets) json.push_back({dataset.name(), dataset.fingerprint()});
  return json;
}

// A result of the cache, or a new one, of the first process for all.
template <typename Function>
Json cached(const ResultCache& cache, const Json& key, const Function& result) {
  dist::ProcessGroup& group = dist::world();
  Json json;
  group.on_first([&] {
    if (const auto found = cache.find(key)) {
      json = *found;
      return;
    }
    json = result();
    cache.keep(key, json);
  });
  return group.size() == 1 ? json : Json::parse(group.broadcast(group.is_first() ? json.dump() : ""));
}

std::vector<Documents> duplicates_of(const std::vector<data::TokenDataset>& train, const ResultCache& cache) {
  return cached(cache, {{"what", "duplicates"}, {"train", identities(train)}}, [&] {
    Progress progress("duplicates", 0, {.counts = "documents", .source = "data.train"});
    return Json(data::find_duplicates(train, threads_while_others_wait(), progress));
  });
}

Json contamination_of(const TextModel& model, const std::vector<data::TokenDataset>& train,
                      const std::vector<data::TokenDataset>& eval, const ResultCache& cache) {
  const Json key = {{"what", "contamination"},
                    {"tokens", data::kContaminationTokens},
                    {"tokenizer", model.tokenizer.fingerprint()},
                    {"train", identities(train)},
                    {"eval", identities(eval)}};
  return cached(cache, key, [&] {
    Progress progress("compare", 0, {.counts = "tokens", .source = "data.eval with data.train"});
    const data::ContaminationReport report =
        data::find_contamination(train, eval, threads_while_others_wait(), progress);
    Json sets = Json::object();
    for (const data::Contamination& set : report.held_out) {
      Json examples = Json::array();
      for (const data::ContaminationExample& example : set.examples)
        examples.push_back({{"document", example.document},
                            {"text", model.tokenizer.decode(example.ids)},
                            {"train_name", example.train_name},
                            {"train_document", example.train_document}});
      sets[set.name] = {{"documents", set.documents},
                        {"contaminated_documents", set.contaminated_documents},
                        {"ngrams", set.ngrams},
                        {"shared_ngrams", set.shared_ngrams},
                        {"examples", examples}};
    }
    return Json{{"eval", sets}, {"train", report.train}};
  });
}

void warn_of_contamination(const Json& eval, bool drops) {
  for (const auto& [name, set] : eval.items()) {
    const auto documents = set["contaminated_documents"].get<std::int64_t>();
    if (documents == 0) continue;
    log_common_warning(
        "data.eval ({}): {} of {} documents share {} tokens in a row or more with the training text ({:.1f} % of "
        "such runs). A run lists examples in contamination.json.{}",
        name, format_count(documents), format_count(set["documents"].get<std::int64_t>()), data::kContaminationTokens,
        100 * set["shared_ngrams"].get<double>() / set["ngrams"].get<double>(),
        drops ? "" : " To leave such training documents out: data.drop_contaminated: true");
  }
}

Documents union_of(const Documents& a, const Documents& b) {
  Documents both;
  std::ranges::set_union(a, b, std::back_inserter(both));
  return both;
}

}  // namespace

Json check_training_text(const TextModel& model, const config::RunConfig& config, Datasets& datasets,
                         const ResultCache& cache) {
  std::vector<data::TokenDataset> train = datasets.train;
  if (config.train.replay_ratio.value_or(0).max() > 0)
    train.insert(train.end(), datasets.replay.begin(), datasets.replay.end());
  std::vector<Documents> repeated(train.size()), contaminated(train.size());
  if (config.data.deduplicate) repeated = duplicates_of(train, cache);
  Json report = {{"tokens", data::kContaminationTokens}, {"eval", Json::object()}, {"train", Json::object()}};
  if (!datasets.eval.empty()) {
    const Json found = contamination_of(model, train, datasets.eval, cache);
    found.at("train").get_to(contaminated);
    report["eval"] = found.at("eval");
    warn_of_contamination(report["eval"], config.data.drop_contaminated);
  }
  datasets.excluded.assign(datasets.train.size() + datasets.replay.size(), {});
  for (std::size_t i = 0; i < train.size(); ++i) {
    Documents& excluded = datasets.excluded[i];
    excluded = config.data.drop_contaminated ? union_of(repeated[i], contaminated[i]) : repeated[i];
    report["train"][train[i].name()] = {{"documents", train[i].num_documents()},
                                        {"contaminated_documents", contaminated[i].size()},
                                        {"repeated_documents", repeated[i].size()},
                                        {"excluded_documents", excluded.size()}};
    if (excluded.empty()) continue;
    const std::int64_t shared = config.data.drop_contaminated ? std::ssize(contaminated[i]) : 0;
    const std::int64_t both = std::ssize(repeated[i]) + shared - std::ssize(excluded);
    log_info("{}: {} of {} documents are left out: {} repeat an earlier one, {} share text with data.eval{}",
             train[i].name(), format_count(std::ssize(excluded)), format_count(train[i].num_documents()),
             format_count(std::ssize(repeated[i])), format_count(shared),
             both > 0 ? fmt::format("; {} do both", format_count(both)) : "");
  }
  return report;
}

}  // namespace adept::run
