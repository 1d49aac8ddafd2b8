#include "adept/method/beyond/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "adept/core/error.h"
#include "adept/method/beyond/statistics.h"

namespace adept::method {
namespace {

constexpr int kResamples = 1000;
constexpr std::uint64_t kResampleSeed = 0;
constexpr double kError = 0.05;
// With fewer, a resample says little about the text.
constexpr std::size_t kFewestSequences = 16;

const FromSequences& from_sequences(const ImportanceMethod& method) { return std::get<FromSequences>(method.scores); }

// The passes over sequences that the methods require, without duplicates and without passes whose results others
// include.
std::vector<const Pass*> passes_of(const ProbeOptions& options) {
  std::vector<const Pass*> passes;
  const auto has = [&](const Pass* pass) { return std::find(passes.begin(), passes.end(), pass) != passes.end(); };
  for (const bool with_alternative : {false, true})
    for (const std::string& name : options.methods) {
      const auto* scores = std::get_if<FromSequences>(&importance_method(name).scores);
      if (scores == nullptr || (scores->as_well_from != nullptr) != with_alternative) continue;
      if (!has(scores->pass) && !(with_alternative && has(scores->as_well_from))) passes.push_back(scores->pass);
    }
  return passes;
}

// The methods that use whole texts.
std::int64_t num_from_texts(const ProbeOptions& options) {
  return std::count_if(options.methods.begin(), options.methods.end(), [](const std::string& name) {
    return std::holds_alternative<FromTexts>(importance_method(name).scores);
  });
}

std::vector<std::vector<double>> covariance_of(const std::vector<std::vector<double>>& rows) {
  const std::size_t width = rows.front().size();
  const auto n = static_cast<double>(rows.size());
  std::vector<double> mean(width);
  for (const auto& row : rows)
    for (std::size_t i = 0; i < width; ++i) mean[i] += row[i] / n;
  std::vector<std::vector<double>> covariance(width, std::vector<double>(width));
  for (const auto& row : rows)
    for (std::size_t i = 0; i < width; ++i)
      for (std::size_t j = 0; j < width; ++j) covariance[i][j] += (row[i] - mean[i]) * (row[j] - mean[j]) / (n - 1);
  return covariance;
}

std::array<double, 2> percentiles95(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(std::lround(share * static_cast<double>(values.size() - 1)))];
  };
  return {at(0.025), at(0.975)};
}

std::vector<int> lowest_but(std::vector<double> scores, int k, const std::vector<int>& exclude) {
  for (const int layer : exclude) scores.at(static_cast<std::size_t>(layer)) = std::numeric_limits<double>::infinity();
  return lowest(scores, k);
}

double share_of_same_lowest(const std::vector<std::vector<double>>& resampled, const std::vector<int>& chosen,
                            const std::vector<int>& exclude) {
  const auto same = std::count_if(resampled.begin(), resampled.end(), [&](const std::vector<double>& scores) {
    return lowest_but(scores, static_cast<int>(chosen.size()), exclude) == chosen;
  });
  return static_cast<double>(same) / static_cast<double>(resampled.size());
}

void add_intervals(const ProbeSamples& samples, const ImportanceMethod& method,
                   const std::vector<std::vector<double>>& resampled, std::vector<LayerImportance>& layers) {
  const FromSequences& from = from_sequences(method);
  const MeasureTable& table = samples.tables.find(from.measure)->second;
  for (LayerImportance& layer : layers) {
    const auto l = static_cast<std::size_t>(layer.index);
    if (!from.is_mean && resampled.empty()) {
      constexpr double infinity = std::numeric_limits<double>::infinity();
      layer.ci95 = {-infinity, infinity};
      continue;
    }
    if (!from.is_mean) {
      std::vector<double> scores;
      for (const auto& row : resampled) scores.push_back(row[l]);
      layer.ci95 = percentiles95(std::move(scores));
      continue;
    }
    std::vector<double> totals;
    for (std::size_t n = 0; n < samples.num_sequences(); ++n) {
      const double* row =
          table.values.data() + (n * static_cast<std::size_t>(samples.num_layers) + l) * table.tensors.size();
      totals.push_back(std::accumulate(row, row + table.tensors.size(), 0.0));
    }
    layer.ci95 = token_mean_ci95(
        {.totals = totals, .tokens = samples.tokens, .sources = samples.sources, .weights = samples.source_weights});
  }
}

// Sequences minus sources; 0 if a source has a single sequence, whose resamples are all equal.
int degrees_of_freedom(const ProbeSamples& samples) {
  std::map<int, int> sequences;
  for (const int source : samples.sources) ++sequences[source];
  if (std::any_of(sequences.begin(), sequences.end(), [](const auto& s) { return s.second < 2; })) return 0;
  return static_cast<int>(std::ssize(samples.sources) - std::ssize(sequences));
}

// The pieces of a batch are those of one pass after the other.
std::int64_t num_pieces(const model::Decoder& decoder, const ProbeBatch& batch, std::span<const Pass* const> passes) {
  std::int64_t pieces = 0;
  for (const Pass* pass : passes) pieces += pass->num_pieces(decoder, batch);
  return pieces;
}

std::vector<dist::Numbers> measure(const model::Decoder& decoder, const ProbeBatch& batch,
                                   std::span<const Pass* const> passes, std::span<const std::int64_t> pieces,
                                   const Tick& tick) {
  std::vector<dist::Numbers> numbers;
  std::int64_t first = 0;
  for (const Pass* pass : passes) {
    const std::int64_t end = first + pass->num_pieces(decoder, batch);
    std::vector<std::int64_t> of_pass;
    for (const std::int64_t piece : pieces)
      if (piece >= first && piece < end) of_pass.push_back(piece - first);
    first = end;
    if (of_pass.empty()) continue;
    std::ranges::move(pass->measure(decoder, batch, of_pass, tick), std::back_inserter(numbers));
  }
  return numbers;
}

void add(const model::Decoder& decoder, const ProbeBatch& batch, std::span<const Pass* const> passes,
         std::span<const dist::Numbers> pieces, ProbeSamples& samples) {
  add_sequences(batch, samples);
  for (const Pass* pass : passes) {
    const auto count = static_cast<std::size_t>(pass->num_pieces(decoder, batch));
    pass->add(decoder, batch, pieces.first(count), samples);
    pieces = pieces.subspan(count);
  }
}

// The work of all processes in the progress line of one.
class Work {
 public:
  Work(Progress& progress, std::int64_t total) : progress_(progress), total_(total) {}

  // This process has computed something, and each of `count` in all about as much.
  void tick(std::int64_t positions, std::int64_t count) {
    own_ += 1;
    progress_.update(std::min(done_ + own_ * count, total_), positions_ += positions * count);
  }
  // All have come to the same place.
  void add(std::int64_t pieces) {
    done_ += pieces;
    own_ = 0;
  }
  // `positions` computed by whichever process.
  void add(std::int64_t pieces, std::int64_t positions) {
    add(pieces);
    progress_.update(done_, positions_ += positions);
  }
  std::int64_t done() const { return done_; }

 private:
  Progress& progress_;
  std::int64_t total_;
  std::int64_t done_ = 0, own_ = 0, positions_ = 0;
};

// Sequences that predict a token: those of the samples.
std::size_t num_scored(const std::vector<ProbeBatch>& batches) {
  ProbeSamples scored;
  for (const ProbeBatch& batch : batches) add_sequences(batch, scored);
  return scored.num_sequences();
}

}  // namespace

Importance summarize(const ProbeSamples& samples, const ImportanceMethod& method, int num_lowest,
                     const std::vector<int>& exclude) {
  if (samples.tokens.empty())
    throw DataError("probe text: found no token to predict; expected documents of at least two tokens.");
  Importance importance{.method = std::string(method.name),
                        .model = {},
                        .baseline_loss = token_mean({.totals = samples.losses,
                                                     .tokens = samples.tokens,
                                                     .sources = samples.sources,
                                                     .weights = samples.source_weights}),
                        .tokens = 0,
                        .sequences = std::ssize(samples.tokens),
                        .layers = {},
                        .stability = {},
                        .separation = {}};
  double tokens = 0;
  for (const double n : samples.tokens) tokens += n;
  importance.tokens = static_cast<std::int64_t>(tokens);
  for (const double score : from_sequences(method).scores(layer_means(samples, from_sequences(method).measure)))
    importance.layers.push_back({.index = static_cast<int>(importance.layers.size()), .score = score});
  normalize_and_rank(importance.layers);
  if (!std::isfinite(importance.baseline_loss))
    throw NonFiniteError("probe: the model's loss is not finite; check the model's weights and the probe text.");
  std::vector<std::vector<double>> resampled;
  if (const int freedom = degrees_of_freedom(samples); freedom > 0) {
    resampled = resampled_scores(samples, from_sequences(method), kResamples, kResampleSeed);
    for (const auto& scores : resampled)
      for (const int l : lowest_but(scores, num_lowest, exclude))
        importance.layers[static_cast<std::size_t>(l)].lowest_share += 1.0 / kResamples;
    importance.stability = {.num_lowest = num_lowest,
                            .num_resamples = kResamples,
                            .same_set_share = share_of_same_lowest(
                                resampled, lowest_but(importance.scores(), num_lowest, exclude), exclude),
                            .degrees_of_freedom = freedom,
                            .covariance = covariance_of(resampled)};
  }
  add_intervals(samples, method, resampled, importance.layers);
  return importance;
}

bool is_from_texts_alone(const ProbeOptions& options) { return num_from_texts(options) == std::ssize(options.methods); }

std::int64_t probe_work(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options) {
  const std::vector<const Pass*> passes = passes_of(options);
  const std::int64_t from_texts = num_from_texts(options);
  std::int64_t work = from_texts * std::ssize(text.domain);
  for (const auto& round : text.general)
    for (const ProbeBatch& batch : round) work += num_pieces(decoder, batch, passes) + from_texts;
  return work;
}

std::vector<Importance> probe(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options,
                              Progress& progress, dist::ProcessGroup& group) {
  ProbeState state;
  return probe(decoder, text, options, progress, state, group);
}

namespace {

// The processes divide the pieces of `passes` over `batches`; `add` gets those of each batch in turn.
void divide_passes(const model::Decoder& decoder, std::span<const ProbeBatch> batches,
                   std::span<const Pass* const> passes, Work& work, dist::ProcessGroup& group,
                   FunctionRef<void(std::int64_t item, std::span<const dist::Numbers> pieces)> add) {
  const bool is_shared = decoder.is_shared();
  const auto batch_of = [&](std::int64_t item) -> const ProbeBatch& { return batches[static_cast<std::size_t>(item)]; };
  // Processes that measure something different: where they share the layers, those with the same batch repeat it.
  const auto num_different = [&](std::int64_t item) {
    const std::int64_t round = item / group.size() * group.size();
    return is_shared ? std::min<std::int64_t>(group.size(), std::ssize(batches) - round) : group.size();
  };
  dist::divide(group, std::ssize(batches),
               {.num_pieces = [&](std::int64_t item) { return num_pieces(decoder, batch_of(item), passes); },
                .measure =
                    [&](std::int64_t item, std::span<const std::int64_t> pieces) {
                      return measure(decoder, batch_of(item), passes, pieces, [&](std::int64_t positions) {
                        work.tick(positions, num_different(item));
                        if (is_shared) group.throw_if_interrupted();
                      });
                    },
                .add =
                    [&](std::int64_t item, std::span<const dist::Numbers> pieces) {
                      add(item, pieces);
                      work.add(std::ssize(pieces));
                    },
                .in_step = is_shared});
}

void measure_batches(const model::Decoder& decoder, std::span<const ProbeBatch> batches,
                     std::span<const Pass* const> passes, Work& work, ProbeState& state, dist::ProcessGroup& group) {
  const auto add_batch = [&](const ProbeBatch& batch, std::span<const dist::Numbers> pieces) {
    add(decoder, batch, passes, pieces, state.samples);
    ++state.batches;
  };
  if (!decoder.is_shared())
    return divide_passes(decoder, batches, passes, work, group, [&](std::int64_t item, auto pieces) {
      add_batch(batches[static_cast<std::size_t>(item)], pieces);
    });
  // Processes that share the layers do the same at the same time: one pass over a batch for each, then the next one.
  const auto size = static_cast<std::size_t>(group.size());
  for (std::size_t begin = 0; begin < batches.size(); begin += size) {
    const std::span round = batches.subspan(begin, std::min(size, batches.size() - begin));
    std::vector<std::vector<dist::Numbers>> numbers(round.size());
    for (const Pass* const& pass : passes)
      divide_passes(decoder, round, {&pass, 1}, work, group, [&](std::int64_t item, auto pieces) {
        std::ranges::copy(pieces, std::back_inserter(numbers[static_cast<std::size_t>(item)]));
      });
    for (std::size_t item = 0; item < round.size(); ++item) add_batch(round[item], numbers[item]);
  }
}

// Fills state.samples; with until_separated, returns the outcome.
std::optional<Separation> sample(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options,
                                 Work& work, ProbeState& state, dist::ProcessGroup& group) {
  const std::vector<const Pass*> passes = passes_of(options);
  ProbeSamples& samples = state.samples;
  if (state.batches == 0) samples = {};
  samples.num_layers = static_cast<int>(decoder.num_layers());
  Separation separation{
      .reached = false, .required_share = 1 - kError / static_cast<double>(text.general.size()), .looks = 0};
  std::int64_t end = 0;     // batches of the rounds so far
  std::size_t earlier = 0;  // sequences of the rounds so far; other sessions may have measured more
  for (const auto& round : text.general) {
    const auto known = std::clamp<std::int64_t>(state.batches - end, 0, std::ssize(round));
    end += std::ssize(round);
    const std::span batches(round);
    for (const ProbeBatch& batch : batches.first(static_cast<std::size_t>(known)))
      work.add(num_pieces(decoder, batch, passes));
    measure_batches(decoder, batches.subspan(static_cast<std::size_t>(known)), passes, work, state, group);
    earlier += num_scored(round);
    if (!options.until_separated || earlier < kFewestSequences) continue;
    ++separation.looks;
    if (end < state.batches) continue;  // checked in an earlier session
    const ImportanceMethod& first = importance_method(options.methods.at(0));
    const double share = summarize(samples, first, options.num_lowest, options.exclude).stability.same_set_share;
    separation.reached = group.of_first(share) >= separation.required_share;
    if (separation.reached) break;
  }
  return options.until_separated ? std::optional(separation) : std::nullopt;
}

}  // namespace

std::vector<Importance> probe(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options,
                              Progress& progress, ProbeState& state, dist::ProcessGroup& group) {
  const auto num_layers = static_cast<int>(decoder.num_layers());
  const int most = num_layers - static_cast<int>(std::set<int>(options.exclude.begin(), options.exclude.end()).size());
  if (options.num_lowest < 1 || options.num_lowest > most)
    throw ConfigError("number of layers to choose: found {}; expected 1 to {}, the number of layers of the model{}.",
                      options.num_lowest, most, options.exclude.empty() ? "" : " that are not excluded");
  Work work(progress, probe_work(decoder, text, options));
  std::optional<Separation> separation;
  if (!is_from_texts_alone(options)) separation = sample(decoder, text, options, work, state, group);
  std::vector<Importance> importances;
  for (const std::string& name : options.methods) {
    const ImportanceMethod& method = importance_method(name);
    if (const auto* from_texts = std::get_if<FromTexts>(&method.scores)) {
      std::vector<ProbeBatch> general;
      for (const auto& round : text.general) general.insert(general.end(), round.begin(), round.end());
      const Tick tick = [&](std::int64_t positions) { work.add(1, positions); };
      importances.push_back(from_texts->measure(decoder, general, text.domain, tick, group));
      continue;
    }
    importances.push_back(summarize(state.samples, method, options.num_lowest, options.exclude));
    if (importances.size() == 1) importances.back().separation = separation;
  }
  progress.set_total(work.done());  // it may have stopped early
  return importances;
}

}  // namespace adept::method
