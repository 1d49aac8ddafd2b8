#include "adept/data/sequences.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/progress.h"
#include "adept/core/random.h"

namespace adept::data {
namespace {

constexpr std::int64_t kMaxSeqLen = std::int64_t{1} << 30;

void check_seq_len(std::int64_t seq_len) {
  if (seq_len < 2 || seq_len > kMaxSeqLen)
    throw ConfigError("seq_len is {}; expected 2 to {} tokens.", seq_len, kMaxSeqLen);
}

// Of `length` tokens, those from first_target on that neither start a document nor are untrained.
std::int64_t count_targets(std::int64_t length, std::int64_t first_target, std::span<const std::int32_t> starts,
                           std::span<const TokenSpan> untrained) {
  const auto is_counted = [&](std::int32_t token) { return token >= first_target; };
  std::int64_t targets = length - first_target - std::count_if(starts.begin(), starts.end(), is_counted);
  for (const TokenSpan& span : untrained) {
    const std::int64_t begin = std::max<std::int64_t>(span.begin, first_target);
    if (begin >= span.end) continue;
    const auto first_start = std::lower_bound(starts.begin(), starts.end(), begin);
    targets -= span.end - begin - (std::lower_bound(first_start, starts.end(), span.end) - first_start);
  }
  return targets;
}

}  // namespace

std::int64_t Sequence::num_targets() const {
  return count_targets(std::ssize(tokens), first_target, document_starts, untrained);
}

std::vector<std::int64_t> document_lengths(const Sequence& sequence) {
  std::vector<std::int64_t> lengths;
  std::int64_t begin = 0;
  for (const std::int32_t start : sequence.document_starts) lengths.push_back(start - std::exchange(begin, start));
  lengths.push_back(std::ssize(sequence.tokens) - begin);
  return lengths;
}

std::string describe(const SampleSize& size) {
  if (!size.is_sample)
    return fmt::format("all {} tokens in {} documents", format_count(size.tokens), format_count(size.documents));
  return fmt::format("{} of {} tokens in {} of {} documents", format_count(size.tokens), format_count(size.all_tokens),
                     format_count(size.documents), format_count(size.all_documents));
}

Json to_json(const SampleSize& size) {
  return {{"tokens", size.tokens},
          {"all_tokens", size.all_tokens},
          {"documents", size.documents},
          {"all_documents", size.all_documents},
          {"is_sample", size.is_sample}};
}

SampleSize sample_size_from_json(const Json& json) {
  return {.tokens = json.at("tokens").get<std::int64_t>(),
          .all_tokens = json.at("all_tokens").get<std::int64_t>(),
          .documents = json.at("documents").get<std::int64_t>(),
          .all_documents = json.at("all_documents").get<std::int64_t>(),
          .is_sample = json.at("is_sample").get<bool>()};
}

/// Takes all given sequences, or a sample: the shortest list of the lowest ranks that reaches the limit.
class SequenceSetBuilder {
 public:
  SequenceSetBuilder(PackedStream stream, bool document_mask, std::int64_t max_tokens)
      : list_{.stream = std::move(stream), .document_mask = document_mask}, max_tokens_(max_tokens) {
    if (max_tokens < 0) throw ConfigError("max_tokens is {}; expected 0 (no limit) or more.", max_tokens);
    counts().tokens = list_.stream.num_tokens();
    counts().all_documents = list_.stream.dataset().num_documents();
  }

  SequenceCounts& counts() { return list_.counts; }
  const PackedStream& stream() const { return list_.stream; }

  /// Windows over the tokens begin .. begin + size - 1 of the stream. Each token is new in exactly one window.
  void add_windows(std::int64_t begin, std::int64_t size, std::int64_t seq_len, std::int64_t stride) {
    if (size < 2) {
      counts().too_short += size;
      return;
    }
    if (taken_.empty() && max_tokens_ == 0) taken_.reserve(static_cast<std::size_t>(size / stride + 1));
    std::int64_t covered = 0;
    for (std::int64_t at = 0; covered < size; at += stride) {
      const std::int64_t end = std::min(at + seq_len, size);
      const bool leaves_one = stride == seq_len && size - end == 1;
      const Candidate candidate{.begin = begin + at,
                                .length = static_cast<std::int32_t>(end - at),
                                .context = static_cast<std::int32_t>(covered - at),
                                .lone = leaves_one ? 1 : 0};
      if (is_context_only(candidate)) {
        counts().untrained += candidate.length - candidate.context;
        counts().too_short += candidate.lone;
      } else {
        offer(candidate);
      }
      covered = end + (leaves_one ? 1 : 0);
    }
  }

  SequenceSet finish() {
    cut_to_limit();
    std::sort(taken_.begin(), taken_.end(), [](const Candidate& a, const Candidate& b) { return a.begin < b.begin; });
    auto& c = counts();
    list_.entries.reserve(taken_.size());
    for (const Candidate& candidate : taken_) {
      const std::int32_t first_target = std::max(1, candidate.context);
      list_.entries.push_back({candidate.begin, candidate.length, first_target});
      const std::int64_t targets = num_targets(candidate), masked = num_masked(candidate);
      c.targets += targets;
      c.no_context += (candidate.context == 0 ? 1 : 0) + masked;
      c.untrained += candidate.length - first_target - masked - targets;
      c.too_short += candidate.lone;
    }
    count_documents();
    c.beyond_limit = c.tokens - c.targets - c.no_context - c.untrained - c.too_short;
    ADEPT_CHECK(c.beyond_limit >= 0 && (is_limited_ || c.beyond_limit == 0), "{} tokens are in no sequence",
                c.beyond_limit);
    return SequenceSet(std::move(list_));
  }

 private:
  struct Candidate {
    std::uint64_t rank = 0;
    std::int64_t begin = 0;    // in the stream
    std::int32_t length = 0;   // tokens
    std::int32_t context = 0;  // of these, the first ones, which are new in an earlier sequence
    std::int32_t lone = 0;     // tokens after it that would be a sequence of one: 0 or 1
  };

  static bool ranks_before(const Candidate& a, const Candidate& b) {
    return std::pair(a.rank, a.begin) < std::pair(b.rank, b.begin);
  }

  void offer(Candidate candidate) {
    if (max_tokens_ == 0) {
      taken_.push_back(candidate);
      return;
    }
    candidate.rank = random_bits(/*seed=*/0, RandomStream::kTextSample, num_offered_++);
    if (num_tokens_ >= max_tokens_ && !ranks_before(candidate, taken_.front())) {
      is_limited_ = true;
      return;
    }
    taken_.push_back(candidate);  // a heap, the highest rank first
    std::push_heap(taken_.begin(), taken_.end(), ranks_before);
    num_tokens_ += candidate.length;
    while (num_tokens_ - taken_.front().length >= max_tokens_) {
      is_limited_ = true;
      num_tokens_ -= taken_.front().length;
      std::pop_heap(taken_.begin(), taken_.end(), ranks_before);
      taken_.pop_back();
    }
  }

  void cut_to_limit() {
    if (max_tokens_ == 0 || num_tokens_ <= max_tokens_ || taken_.size() < 2) return;
    is_limited_ = true;
    std::pop_heap(taken_.begin(), taken_.end(), ranks_before);
    Candidate& last = taken_.back();
    last.length -= static_cast<std::int32_t>(num_tokens_ - max_tokens_);
    last.lone = 0;
    if (num_targets(last) <= 0) taken_.pop_back();
  }

  // Documents that start within it and do not attend to earlier ones.
  std::int64_t num_masked(const Candidate& c) const {
    return list_.document_mask ? std::ssize(stream().starts_within(c.begin, c.length)) : 0;
  }
  std::int64_t num_targets(const Candidate& c) const {
    const std::vector<std::int32_t> starts =
        list_.document_mask ? stream().starts_within(c.begin, c.length) : std::vector<std::int32_t>();
    return count_targets(c.length, std::max(1, c.context), starts, stream().untrained_within(c.begin, c.length));
  }

  bool is_context_only(const Candidate& c) const {
    return stream().has_untrained() && num_targets(c) <= 0 && !stream().untrained_within(c.begin, c.length).empty();
  }

  // The parts of documents that are new in the sequences.
  void count_documents() {
    const std::span<const std::int64_t> starts = stream().starts();
    std::vector<std::uint8_t> num_sequences(
        static_cast<std::size_t>(counts().all_documents));  // of a document: 0, 1, 2+
    double bytes = 0;
    std::size_t part = 0;
    std::int64_t measured = 0;
    const auto finish_part = [&] {
      if (measured == 0) return;
      bytes += bytes_of(stream().order()[part], measured);
      counts().measured += measured;
      measured = 0;
    };
    for (const Candidate& candidate : taken_) {
      const std::int64_t end = candidate.begin + candidate.length + candidate.lone;
      counts().covered += end - candidate.begin - candidate.context;
      for (std::int64_t at = candidate.begin + candidate.context; at < end;) {
        for (; starts[part + 1] <= at; ++part) finish_part();
        auto& sequences = num_sequences[static_cast<std::size_t>(stream().order()[part])];
        sequences = static_cast<std::uint8_t>(std::min(sequences + 1, 2));
        const std::int64_t step = std::min(end, starts[part + 1]) - at;
        measured += step - num_untrained(at, step);
        at += step;
      }
    }
    finish_part();
    counts().documents = std::ssize(num_sequences) - std::ranges::count(num_sequences, 0);
    counts().split_documents = std::ranges::count(num_sequences, 2);
    counts().bytes = std::llround(bytes);
  }

  std::int64_t num_untrained(std::int64_t begin, std::int64_t size) const {
    std::int64_t tokens = 0;
    for (const TokenSpan& span : stream().untrained_within(begin, size)) tokens += span.end - span.begin;
    return tokens;
  }

  // The text of some of a document's tokens that are not untrained.
  double bytes_of(std::int64_t document, std::int64_t tokens) const {
    const std::int64_t all = stream().document_tokens(document) - stream().untrained_tokens(document);
    const std::int64_t bytes =
        stream().dataset().document_bytes(document) - stream().dataset().untrained(document).bytes;
    return static_cast<double>(tokens) / static_cast<double>(all) * static_cast<double>(bytes);
  }

  SequenceSet::List list_;
  std::int64_t max_tokens_;
  std::vector<Candidate> taken_;
  std::int64_t num_tokens_ = 0;  // of those taken
  std::uint64_t num_offered_ = 0;
  bool is_limited_ = false;
};

Sequence SequenceSet::operator[](std::int64_t i) const {
  ADEPT_CHECK(i >= 0 && i < size(), "sequence {} of {}", i, size());
  const auto& [begin, length, first_target] = list_->entries[static_cast<std::size_t>(i)];
  const PackedStream& stream = list_->stream;
  Sequence sequence;
  sequence.tokens.resize(static_cast<std::size_t>(length));
  sequence.first_target = first_target;
  stream.read(begin, sequence.tokens);
  if (list_->document_mask) sequence.document_starts = stream.starts_within(begin, length);
  sequence.untrained = stream.untrained_within(begin, length);
  return sequence;
}

std::vector<std::int64_t> SequenceSet::lengths() const {
  std::vector<std::int64_t> lengths;
  lengths.reserve(list_->entries.size());
  for (const Entry& entry : list_->entries) lengths.push_back(entry.length);
  return lengths;
}

std::vector<Sequence> SequenceSet::to_vector() const {
  std::vector<Sequence> sequences;
  sequences.reserve(list_->entries.size());
  for (std::int64_t i = 0; i < size(); ++i) sequences.push_back((*this)[i]);
  return sequences;
}

SequenceSet windows(const TokenDataset& dataset, const WindowOptions& options) {
  check_seq_len(options.seq_len);
  const std::int64_t stride = options.stride == 0 ? options.seq_len : options.stride;
  if (stride < 1 || stride > options.seq_len)
    throw ConfigError("stride is {}; expected 1 to {} (seq_len), or 0 for windows without overlap.", stride,
                      options.seq_len);
  SequenceSetBuilder builder(PackedStream(dataset, std::nullopt), /*document_mask=*/false, options.max_tokens);
  const std::span<const std::int64_t> starts = builder.stream().starts();
  for (std::size_t d = 0; d + 1 < starts.size(); ++d) {
    const std::int64_t size = starts[d + 1] - starts[d];
    if (size < 2) ++builder.counts().short_documents;
    builder.add_windows(starts[d], size, options.seq_len, stride);
  }
  return builder.finish();
}

SequenceSet packed(const TokenDataset& dataset, const PackOptions& options) {
  check_seq_len(options.seq_len);
  const PackedStream stream(dataset, options.eos,
                            options.order ? *options.order : numbers_below(dataset.num_documents()), options.tag);
  const PackedLayout layout = pack(options.packing, stream.starts(), options.seq_len);
  SequenceSetBuilder builder(stream.arranged(layout), options.document_mask, options.max_tokens);
  for (std::size_t g = 0; g + 1 < layout.groups.size(); ++g)
    builder.add_windows(layout.groups[g], layout.groups[g + 1] - layout.groups[g], options.seq_len, options.seq_len);
  return builder.finish();
}

namespace {

// (B, T): for each position of the batch, the column where its document starts.
std::vector<std::int32_t> starts_of_positions(std::span<const Sequence> sequences, std::int64_t cols) {
  const auto is_one_document = [](const Sequence& sequence) { return sequence.document_starts.empty(); };
  if (std::all_of(sequences.begin(), sequences.end(), is_one_document)) return {};
  std::vector<std::int32_t> result(sequences.size() * static_cast<std::size_t>(cols), 0);
  for (std::size_t b = 0; b < sequences.size(); ++b) {
    std::vector<std::int32_t> edges = sequences[b].document_starts;
    edges.push_back(static_cast<std::int32_t>(sequences[b].tokens.size()));  // where padding starts
    edges.push_back(static_cast<std::int32_t>(cols));
    const auto row = result.begin() + static_cast<std::ptrdiff_t>(b) * cols;
    for (std::size_t i = 0; i + 1 < edges.size(); ++i) std::fill(row + edges[i], row + edges[i + 1], edges[i]);
  }
  return result;
}

}  // namespace

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
    }
    for (const std::int32_t start : sequences[b].document_starts) {
      ADEPT_CHECK(start > 0 && static_cast<std::size_t>(start) < tokens.size(), "a document starts at {} of {} tokens",
                  start, tokens.size());
      batch.targets[b * cols + static_cast<std::size_t>(start) - 1] = kIgnoreIndex;
    }
    for (const TokenSpan& span : sequences[b].untrained)
      for (std::int32_t t = std::max(span.begin, 1); t < span.end; ++t)
        batch.targets[b * cols + static_cast<std::size_t>(t) - 1] = kIgnoreIndex;
    batch.num_targets += sequences[b].num_targets();
    batch.lengths.push_back(static_cast<std::int64_t>(tokens.size()));
  }
  batch.document_starts = starts_of_positions(sequences, batch.cols);
  return batch;
}

std::vector<std::vector<std::int64_t>> group_into_batches(std::span<const std::int64_t> lengths, std::int64_t max_rows,
                                                          std::int64_t max_tokens) {
  if (max_rows < 1) throw ConfigError("the batch size is {}; expected at least 1 row.", max_rows);
  if (max_tokens < 1)
    throw ConfigError("the maximum number of tokens per batch is {}; expected at least 1.", max_tokens);
  std::vector<std::int64_t> by_length = numbers_below(std::ssize(lengths));
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
