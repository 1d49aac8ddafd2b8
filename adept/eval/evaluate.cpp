#include "adept/eval/evaluate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/progress.h"
#include "adept/core/signals.h"
#include "adept/dist/division.h"
#include "adept/model/batch.h"
#include "adept/nn/cross_entropy.h"

namespace adept::eval {
namespace {

// Loss and predicted tokens of each row.
dist::Numbers score(const model::FrozenPrefix& model, const model::Batch& batch) {
  const model::Decoder& decoder = model.decoder();
  const at::Tensor h = model.hidden(batch.input_ids, decoder.num_layers(), batch.context(throw_if_interrupted));
  const at::Tensor losses = decoder.token_losses(h, batch.targets);                                       // (B, T)
  const at::Tensor sums = losses.sum({1}, /*keepdim=*/false, at::kDouble).cpu();                          // (B)
  const at::Tensor counts = batch.targets.values.ne(nn::kIgnoreIndex).sum({1}, /*keepdim=*/false).cpu();  // (B)
  dist::Numbers numbers;
  for (std::int64_t i = 0; i < batch.rows(); ++i) {
    numbers.push_back(sums.const_data_ptr<double>()[i]);
    numbers.push_back(static_cast<double>(counts.const_data_ptr<std::int64_t>()[i]));
  }
  return numbers;
}

}  // namespace

Result evaluate(const model::FrozenPrefix& model, const EvalSet& set, const EvaluateOptions& options,
                dist::ProcessGroup& group) {
  const at::NoGradGuard no_grad;
  require_targets(set);
  const data::SequenceSet& sequences = set.sequences;
  Progress progress("eval", sequences.size(), {.counts = "sequences", .source = options.note + set.name});
  const std::vector<std::int64_t> lengths = sequences.lengths();
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const auto batches = data::group_into_batches(sequences, options.batch_size, options.batch_size * longest);
  const auto measure = [&](std::int64_t item) {
    std::vector<data::Sequence> rows;
    for (const std::int64_t i : batches[static_cast<std::size_t>(item)]) rows.push_back(sequences[i]);
    return score(model, model::to_batch(data::make_batch(rows), model.decoder().device()));
  };
  Scores scores{.sequences = {}, .counts = sequences.counts()};
  double total = 0;
  std::int64_t tokens = 0, positions = 0;
  const auto add = [&](std::int64_t item, const dist::Numbers& numbers) {
    for (std::size_t i = 0; i < numbers.size(); i += 2) {
      scores.sequences.push_back({.loss = numbers[i], .tokens = static_cast<std::int64_t>(numbers[i + 1])});
      total += scores.sequences.back().loss;
      tokens += scores.sequences.back().tokens;
    }
    const std::vector<std::int64_t>& batch = batches[static_cast<std::size_t>(item)];  // padded to its longest
    std::int64_t columns = 0;
    for (const std::int64_t i : batch) columns = std::max(columns, sequences.length(i));
    positions += std::ssize(batch) * columns;
    progress.update(std::ssize(scores.sequences), positions,
                    fmt::format("loss {:.3f}", total / static_cast<double>(tokens)));
  };
  dist::divide(group, std::ssize(batches), measure, add, /*in_step=*/model.decoder().is_shared());
  ADEPT_CHECK(tokens == scores.counts.targets, "{} targets were scored, {} were planned", tokens,
              scores.counts.targets);
  Result result{.metrics = metrics_of(scores),
                .tokens = tokens,
                .documents = scores.counts.documents,
                .text = scores.counts.size()};
  progress.finish(fmt::format("{}, {}", describe(result.headline()), data::describe(result.text)));
  return result;
}

void require_targets(const EvalSet& set) {
  const data::SequenceCounts& counts = set.sequences.counts();
  if (counts.tokens == 0) throw DataError("{}: found no text; expected at least one document of two tokens.", set.name);
  if (counts.targets == 0)
    throw DataError("{}: found no token to predict ({} documents of one token); expected longer documents.", set.name,
                    counts.short_documents);
}

}  // namespace adept::eval
