#include "adept/data/token_sink.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <utility>

#include "adept/core/error.h"

namespace adept::data {
namespace {

constexpr std::size_t kBlockTokens = std::size_t{1} << 24;

/// Document i is tokens [offsets[i], offsets[i + 1]).
class MemoryStorage : public TokenStorage {
 public:
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> offsets, bytes;
  std::vector<TokenSpan> spans;  // empty: no document has untrained tokens, and the two below are empty, too
  std::vector<std::int64_t> span_offsets, untrained_bytes;

  std::int64_t document_tokens(std::int64_t i) const override { return end(i) - begin(i); }
  std::int64_t document_bytes(std::int64_t i) const override { return bytes[static_cast<std::size_t>(i)]; }
  std::int32_t last_token(std::int64_t i) const override { return tokens[static_cast<std::size_t>(end(i) - 1)]; }
  Untrained untrained(std::int64_t i) const override {
    if (spans.empty()) return {};
    const auto at = static_cast<std::size_t>(i);
    return {.spans = {spans.begin() + span_offsets[at], spans.begin() + span_offsets[at + 1]},
            .bytes = untrained_bytes[at]};
  }
  bool has_untrained() const override { return !spans.empty(); }
  void read(std::int64_t i, std::int64_t first, std::span<std::int32_t> out) const override {
    std::copy_n(tokens.begin() + begin(i) + first, out.size(), out.begin());
  }

 private:
  std::int64_t begin(std::int64_t i) const { return offsets[static_cast<std::size_t>(i)]; }
  std::int64_t end(std::int64_t i) const { return offsets[static_cast<std::size_t>(i) + 1]; }
};

}  // namespace

DocumentHash::DocumentHash() : state_(Hasher().update("documents").value()) {}

DocumentHash::DocumentHash(const std::string& state) {
  const std::optional<HashValue> value = parse_hash(state);
  if (!value) throw DataError("the hash of documents is \"{}\"; expected xxh3: and 32 digits.", state);
  state_ = *value;
}

void DocumentHash::append(std::span<const std::int32_t> ids) {
  document_.update(std::as_bytes(ids));
  num_ids_ += std::ssize(ids);
}

// A document without untrained tokens has the hash that it has always had.
void DocumentHash::end_document(std::int64_t text_bytes, const Untrained& untrained) {
  const HashValue ids = document_.value();
  const std::array<std::uint64_t, 6> all = {state_.high,
                                            state_.low,
                                            ids.high,
                                            ids.low,
                                            static_cast<std::uint64_t>(num_ids_),
                                            static_cast<std::uint64_t>(text_bytes)};
  state_ = hash_value_of(std::as_bytes(std::span(all)));
  if (!untrained.empty())
    state_ = Hasher()
                 .update(std::as_bytes(std::span(&state_, 1)))
                 .update(std::as_bytes(std::span(untrained.spans)))
                 .update(std::as_bytes(std::span(&untrained.bytes, 1)))
                 .value();
  document_.reset();
  num_ids_ = 0;
}

void TokenSink::add(std::span<const std::int32_t> ids, std::int64_t text_bytes, const Untrained& untrained) {
  append(ids);
  end_document(text_bytes, untrained, [] { return Json(); });
}

void refuse_untrained(const Untrained& untrained, std::string_view format) {
  if (!untrained.empty())
    throw DataError(
        "{} has no place for tokens that are context only, but the text is tokenized with train_on: assistant. Write a "
        "token store (--out-format store), or train on all tokens (--train-on all).",
        format);
}

void MemorySink::append(std::span<const std::int32_t> ids) {
  hash_.append(ids);
  num_tokens_ += std::ssize(ids);
  while (!ids.empty()) {
    if (blocks_.empty() || blocks_.back().size() == kBlockTokens) blocks_.emplace_back();
    auto& block = blocks_.back();
    if (blocks_.size() > 1) block.reserve(kBlockTokens);
    const auto part = ids.first(std::min(ids.size(), kBlockTokens - block.size()));
    block.insert(block.end(), part.begin(), part.end());
    ids = ids.subspan(part.size());
  }
}

void MemorySink::end_document(std::int64_t text_bytes, const Untrained& untrained, PlaceInSource) {
  ADEPT_CHECK(is_valid(untrained, num_tokens_ - offsets_.back(), text_bytes), "{} untrained spans of {} tokens",
              untrained.spans.size(), num_tokens_ - offsets_.back());
  hash_.end_document(text_bytes, untrained);
  offsets_.push_back(num_tokens_);
  bytes_.push_back(text_bytes);
  spans_.insert(spans_.end(), untrained.spans.begin(), untrained.spans.end());
  span_offsets_.push_back(std::ssize(spans_));
  untrained_bytes_.push_back(untrained.bytes);
}

TokenDataset MemorySink::finish(DatasetInfo info) {
  info.counts.documents = std::ssize(bytes_);
  info.counts.tokens = num_tokens_;
  info.counts.bytes = std::accumulate(bytes_.begin(), bytes_.end(), std::int64_t{0});
  const auto storage = std::make_shared<MemoryStorage>();
  storage->tokens.reserve(static_cast<std::size_t>(num_tokens_));
  for (auto& block : std::exchange(blocks_, {})) {
    storage->tokens.insert(storage->tokens.end(), block.begin(), block.end());
    std::vector<std::int32_t>().swap(block);
  }
  storage->offsets = std::exchange(offsets_, {0});
  storage->bytes = std::exchange(bytes_, {});
  if (!spans_.empty()) {
    storage->spans = std::exchange(spans_, {});
    storage->span_offsets = std::exchange(span_offsets_, {0});
    storage->untrained_bytes = std::exchange(untrained_bytes_, {});
  }
  num_tokens_ = 0;
  return {std::move(info), hash_.state(), storage};
}

}  // namespace adept::data
