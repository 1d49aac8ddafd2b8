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

  std::int64_t document_tokens(std::int64_t i) const override { return end(i) - begin(i); }
  std::int64_t document_bytes(std::int64_t i) const override { return bytes[static_cast<std::size_t>(i)]; }
  std::int32_t last_token(std::int64_t i) const override { return tokens[static_cast<std::size_t>(end(i) - 1)]; }
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

void DocumentHash::end_document(std::int64_t text_bytes) {
  const HashValue ids = document_.value();
  const std::array<std::uint64_t, 6> all = {state_.high,
                                            state_.low,
                                            ids.high,
                                            ids.low,
                                            static_cast<std::uint64_t>(num_ids_),
                                            static_cast<std::uint64_t>(text_bytes)};
  state_ = hash_value_of(std::as_bytes(std::span(all)));
  document_.reset();
  num_ids_ = 0;
}

void TokenSink::add(std::span<const std::int32_t> ids, std::int64_t text_bytes) {
  append(ids);
  end_document(text_bytes, [] { return Json(); });
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

void MemorySink::end_document(std::int64_t text_bytes, PlaceInSource) {
  hash_.end_document(text_bytes);
  offsets_.push_back(num_tokens_);
  bytes_.push_back(text_bytes);
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
  num_tokens_ = 0;
  return {std::move(info), hash_.state(), storage};
}

}  // namespace adept::data
