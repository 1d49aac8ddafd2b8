#include "adept/eval/evaluate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/progress.h"
#include "adept/core/signals.h"
#include "adept/model/batch.h"
#include "adept/nn/cross_entropy.h"

namespace adept::eval {
namespace {

// Of each row, from the losses of a batch (B, T).
void add_scores(const at::Tensor& losses, const model::Batch& batch, Scores& scores) {
  const at::Tensor sums = losses.sum({1}, /*keepdim=*/false, at::kDouble).cpu();                          // (B)
  const at::Tensor counts = batch.targets.values.ne(nn::kIgnoreIndex).sum({1}, /*keepdim=*/false).cpu();  // (B)
  for (std::int64_t i = 0; i < batch.rows(); ++i)
    scores.sequences.push_back(
        {.loss = sums.const_data_ptr<double>()[i], .tokens = counts.const_data_ptr<std::int64_t>()[i]});
}

}  // namespace

Result evaluate(const model::FrozenPrefix& model, const EvalSet& set, const EvaluateOptions& options) {
  const at::NoGradGuard no_grad;
  const model::Decoder& decoder = model.decoder();
  require_targets(set);
  const data::SequenceSet& sequences = set.sequences;
  Progress progress("eval", sequences.size(), {.counts = "sequences", .source = options.note + set.name});
  const std::vector<std::int64_t> lengths = sequences.lengths();
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  Scores scores{.sequences = {}, .counts = sequences.counts()};
  double total = 0;
  std::int64_t tokens = 0, positions = 0;
  for (const auto& group : data::group_into_batches(sequences, options.batch_size, options.batch_size * longest)) {
    throw_if_interrupted();
    std::vector<data::Sequence> rows;
    for (const std::int64_t i : group) rows.push_back(sequences[i]);
    const model::Batch batch = model::to_batch(data::make_batch(rows), decoder.device());
    const std::size_t first = scores.sequences.size();
    const at::Tensor h = model.hidden(batch.input_ids, decoder.num_layers(), batch.context(throw_if_interrupted));
    add_scores(decoder.token_losses(h, batch.targets), batch, scores);
    for (std::size_t i = first; i < scores.sequences.size(); ++i) total += scores.sequences[i].loss;
    tokens += batch.num_targets;
    positions += batch.num_positions();
    progress.update(std::ssize(scores.sequences), positions,
                    fmt::format("loss {:.3f}", total / static_cast<double>(tokens)));
  }
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
