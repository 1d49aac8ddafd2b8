#include "adept/eval/perplexity.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/io/record.h"
#include "adept/model/batch.h"

namespace adept::eval {

Perplexity evaluate_perplexity(const model::FrozenPrefix& model, const std::string& name,
                               const data::SequenceSet& sequences, const PerplexityOptions& options,
                               Progress& progress) {
  const at::NoGradGuard no_grad;
  const model::Decoder& decoder = model.decoder();
  require_targets(name, sequences);
  std::int64_t longest = 0;
  for (const std::int64_t length : sequences.lengths()) longest = std::max(longest, length);
  double total = 0;
  std::int64_t done = 0, tokens = 0, positions = 0;
  for (const auto& group : data::group_into_batches(sequences, options.batch_size, options.batch_size * longest)) {
    throw_if_interrupted();
    std::vector<data::Sequence> rows;
    for (const std::int64_t i : group) rows.push_back(sequences[i]);
    const model::Batch batch = model::to_batch(data::make_batch(rows), decoder.device());
    const at::Tensor h = model.hidden(batch.input_ids, decoder.num_layers(), batch.context(throw_if_interrupted));
    const at::Tensor losses = decoder.token_losses(h, batch.targets);
    total += losses.sum(at::kDouble).item<double>();
    tokens += batch.num_targets;
    positions += batch.num_positions();
    done += static_cast<std::int64_t>(group.size());
    progress.update(done, positions, fmt::format("loss {:.3f}", total / static_cast<double>(tokens)));
  }
  const data::SequenceCounts& counts = sequences.counts();
  ADEPT_CHECK(tokens == counts.targets, "{} targets were scored, {} were planned", tokens, counts.targets);
  const double loss = total / static_cast<double>(tokens);
  return {.loss = loss,
          .perplexity = std::exp(loss),
          .bits_per_byte = counts.bytes > 0 ? loss / std::numbers::ln2 * static_cast<double>(counts.covered) /
                                                  static_cast<double>(counts.bytes)
                                            : 0.0,
          .tokens = tokens,
          .documents = counts.documents,
          .text = counts.size()};
}

void require_targets(const std::string& name, const data::SequenceSet& sequences) {
  const data::SequenceCounts& counts = sequences.counts();
  if (counts.tokens == 0) throw DataError("{}: holds no text; expected at least one document of two tokens.", name);
  if (counts.targets == 0)
    throw DataError("{}: found no token to predict ({} documents of one token); expected longer documents.", name,
                    counts.short_documents);
}

void require_finite(const std::string& name, const Perplexity& result) {
  if (!std::isfinite(result.loss))
    throw NonFiniteError(
        fmt::format("{}: the loss is not finite; the model's weights are damaged, or it needs dtype fp32.", name));
}

Json to_json(const Perplexity& result) {
  return {{"loss", result.loss},     {"perplexity", result.perplexity}, {"bits_per_byte", result.bits_per_byte},
          {"tokens", result.tokens}, {"documents", result.documents},   {"text", data::to_json(result.text)}};
}

Perplexity perplexity_from_json(const Json& json, const std::string& where) {
  try {
    return {.loss = json.at("loss").get<double>(),
            .perplexity = io::number_or(json, "perplexity", std::numeric_limits<double>::infinity()),
            .bits_per_byte = json.at("bits_per_byte").get<double>(),
            .tokens = json.at("tokens").get<std::int64_t>(),
            .documents = json.at("documents").get<std::int64_t>(),
            .text = data::sample_size_from_json(json.at("text"))};
  } catch (const std::exception& error) {
    throw DataError("{}: not a result of `adept eval`: {}. Run `adept eval` again.", where, error.what());
  }
}

Json results_to_json(const std::map<std::string, Perplexity>& datasets) {
  Json entries = Json::object();
  for (const auto& [name, result] : datasets) entries[name] = to_json(result);
  return {{"datasets", entries}};
}

std::map<std::string, Perplexity> results_from_json(const Json& json, const std::string& where) {
  if (!json.contains("datasets")) throw DataError("{}: has no \"datasets\". Run `adept eval` again.", where);
  std::map<std::string, Perplexity> datasets;
  for (const auto& [name, entry] : json.at("datasets").items()) datasets[name] = perplexity_from_json(entry, where);
  return datasets;
}

}  // namespace adept::eval
