#include "adept/data/sequences.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "adept/core/error.h"

namespace adept::data {
namespace {

constexpr std::int64_t kMaxSeqLen = std::int64_t{1} << 30;

void check_seq_len(std::int64_t seq_len) {
  if (seq_len < 2 || seq_len > kMaxSeqLen)
    throw ConfigError("seq_len is {}; expected 2 to {} tokens.", seq_len, kMaxSeqLen);
}

}  // namespace

/// Adds sequences until the limit of input tokens is reached.
class SequenceSetBuilder {
 public:
  SequenceSetBuilder(PackedStream stream, std::int64_t max_tokens) : set_(std::move(stream)), max_tokens_(max_tokens) {
    if (max_tokens < 0) throw ConfigError("max_tokens is {}; expected 0 (no limit) or more.", max_tokens);
    counts().tokens = set_.stream_.num_tokens();
  }

  SequenceCounts& counts() { return set_.counts_; }
  const PackedStream& stream() const { return set_.stream_; }
  std::int64_t num_input_tokens() const { return set_.num_input_tokens_; }
  bool full() const { return full_; }

  /// Counts a document of which `covered` of `num_tokens` tokens are in sequences.
  void add_document(std::int64_t bytes, std::int64_t covered, std::int64_t num_tokens) {
    if (covered == 0) return;
    const double share = static_cast<double>(covered) / static_cast<double>(num_tokens);
    ++counts().documents;
    counts().covered += covered;
    counts().bytes += covered == num_tokens ? bytes : std::llround(static_cast<double>(bytes) * share);
  }

  /// Returns false, and adds nothing from then on, once the limit is reached.
  bool add(std::int64_t begin, std::int64_t length, std::int64_t first_target) {
    if (max_tokens_ > 0 && !set_.empty() && length > max_tokens_ - set_.num_input_tokens_) full_ = true;
    if (full_) return false;
    set_.entries_.push_back({begin, static_cast<std::int32_t>(length), static_cast<std::int32_t>(first_target)});
    set_.num_input_tokens_ += length;
    counts().targets += length - first_target;
    return true;
  }

  SequenceSet finish() {
    auto& c = counts();
    c.beyond_limit = c.tokens - c.targets - c.no_context - c.too_short;
    ADEPT_CHECK(c.beyond_limit >= 0 && (full_ || c.beyond_limit == 0), "{} tokens are in no sequence", c.beyond_limit);
    return std::move(set_);
  }

 private:
  SequenceSet set_;
  std::int64_t max_tokens_;
  bool full_ = false;
};

Sequence SequenceSet::operator[](std::int64_t i) const {
  ADEPT_CHECK(i >= 0 && i < size(), "sequence {} of {}", i, size());
  const Entry& entry = entries_[static_cast<std::size_t>(i)];
  Sequence sequence;
  sequence.tokens.resize(static_cast<std::size_t>(entry.length));
  sequence.first_target = entry.first_target;
  stream_.read(entry.begin, sequence.tokens);
  return sequence;
}

std::vector<std::int64_t> SequenceSet::lengths() const {
  std::vector<std::int64_t> lengths;
  lengths.reserve(entries_.size());
  for (const Entry& entry : entries_) lengths.push_back(entry.length);
  return lengths;
}

std::vector<Sequence> SequenceSet::to_vector() const {
  std::vector<Sequence> sequences;
  sequences.reserve(entries_.size());
  for (std::int64_t i = 0; i < size(); ++i) sequences.push_back((*this)[i]);
  return sequences;
}

SequenceSet windows(const TokenDataset& dataset, const WindowOptions& options) {
  check_seq_len(options.seq_len);
  const std::int64_t stride = options.stride == 0 ? options.seq_len : options.stride;
  if (stride < 1 || stride > options.seq_len)
    throw ConfigError("stride is {}; expected 1 to {} (seq_len), or 0 for windows that do not overlap.", stride,
                      options.seq_len);
  SequenceSetBuilder builder(PackedStream(dataset, std::nullopt), options.max_tokens);
  auto& counts = builder.counts();
  for (std::int64_t d = 0; d < dataset.num_documents() && !builder.full(); ++d) {
    const std::int64_t start = dataset.offsets()[static_cast<std::size_t>(d)];
    const auto n = static_cast<std::int64_t>(dataset.document(d).size());
    if (n < 2) {
      ++counts.short_documents;
      counts.too_short += n;
      continue;
    }
    std::int64_t scored = 0;
    for (std::int64_t begin = 0; scored < n; begin += stride) {
      const std::int64_t end = std::min(begin + options.seq_len, n);
      const std::int64_t first_target = std::max<std::int64_t>(1, scored - begin);
      if (end - begin < 2)
        counts.too_short += end - begin;
      else if (!builder.add(begin + start, end - begin, first_target))
        break;
      else if (begin == scored)
        ++counts.no_context;
      scored = end;
    }
    builder.add_document(dataset.document_bytes(d), scored, n);
  }
  return builder.finish();
}

SequenceSet packed(const TokenDataset& dataset, const PackOptions& options) {
  check_seq_len(options.seq_len);
  SequenceSetBuilder builder(
      options.order.empty() ? PackedStream(dataset, options.eos) : PackedStream(dataset, options.eos, options.order),
      options.max_tokens);
  auto& counts = builder.counts();
  const std::int64_t n = builder.stream().num_tokens();
  for (std::int64_t begin = 0; begin < n; begin += options.seq_len) {
    const std::int64_t length = std::min(options.seq_len, n - begin);
    if (length < 2)
      counts.too_short += length;
    else if (!builder.add(begin, length, 1))
      break;
    else
      ++counts.no_context;
  }
  const std::int64_t end = builder.full() ? builder.num_input_tokens() : n;
  const std::span<const std::int64_t> starts = builder.stream().starts();
  for (std::size_t i = 0; i + 1 < starts.size() && starts[i] < end; ++i)
    builder.add_document(dataset.document_bytes(builder.stream().order()[i]), std::min(starts[i + 1], end) - starts[i],
                         starts[i + 1] - starts[i]);
  return builder.finish();
}

TokenBatch make_batch(std::span<const Sequence> sequences, std::int32_t pad_id) {
  ADEPT_CHECK(pad_id >= 0, "pad_id {}", pad_id);
  TokenBatch batch;
  batch.rows = static_cast<std::int64_t>(sequences.size());
  for (const Sequence& sequence : sequences)
    batch.cols = std::max(batch.cols, static_cast<std::int64_t>(sequence.tokens.size()));
  const auto cols = static_cast<std::size_t>(batch.cols);
  batch.input_ids.assign(sequences.size() * cols, pad_id);
  batch.targets.assign(sequences.size() * cols, kIgnoreIndex);
  for (std::size_t b = 0; b < sequences.size(); ++b) {
    const auto& tokens = sequences[b].tokens;
    ADEPT_CHECK(sequences[b].first_target >= 1, "first_target {}", sequences[b].first_target);
    std::copy(tokens.begin(), tokens.end(), batch.input_ids.begin() + static_cast<std::ptrdiff_t>(b * cols));
    for (auto t = static_cast<std::size_t>(sequences[b].first_target); t < tokens.size(); ++t) {
      batch.targets[b * cols + t - 1] = tokens[t];
      ++batch.num_targets;
    }
    batch.lengths.push_back(static_cast<std::int64_t>(tokens.size()));
  }
  return batch;
}

std::vector<std::vector<std::int64_t>> group_into_batches(std::span<const std::int64_t> lengths, std::int64_t max_rows,
                                                          std::int64_t max_tokens) {
  if (max_rows < 1) throw ConfigError("the batch size is {}; expected at least 1 row.", max_rows);
  if (max_tokens < 1) throw ConfigError("the most tokens of a batch are {}; expected at least 1.", max_tokens);
  std::vector<std::int64_t> by_length(lengths.size());
  std::iota(by_length.begin(), by_length.end(), 0);
  const auto length = [&](std::int64_t i) { return lengths[static_cast<std::size_t>(i)]; };
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](std::int64_t a, std::int64_t b) { return length(a) > length(b); });
  std::vector<std::vector<std::int64_t>> groups;
  std::int64_t rows_left = 0;
  for (const std::int64_t i : by_length) {
    if (rows_left == 0) {
      groups.emplace_back();
      rows_left = std::clamp<std::int64_t>(max_tokens / std::max<std::int64_t>(1, length(i)), 1, max_rows);
    }
    groups.back().push_back(i);
    --rows_left;
  }
  return groups;
}

std::vector<std::vector<std::int64_t>> group_into_batches(const SequenceSet& sequences, std::int64_t max_rows,
                                                          std::int64_t max_tokens) {
  return group_into_batches(sequences.lengths(), max_rows, max_tokens);
}

}  // namespace adept::data
