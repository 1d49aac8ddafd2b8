#include "adept/data/packed_stream.h"

#include <algorithm>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/random.h"

namespace adept::data {

PackedStream::PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos)
    : PackedStream(dataset, eos, numbers_below(dataset.num_documents())) {}

PackedStream::PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos, std::vector<std::int64_t> order,
                           DocumentTag tag)
    : dataset_(std::move(dataset)), eos_(eos), tag_(std::move(tag)), order_(std::move(order)) {
  if (eos_ && (*eos_ < 0 || *eos_ >= dataset_.vocab_size()))
    throw ConfigError(
        "the EOS id is {}, outside the vocabulary of {} ids of the data \"{}\"; expected the id of the tokenizer that "
        "produced the data.",
        *eos_, dataset_.vocab_size(), dataset_.name());
  starts_.reserve(order_.size() + 1);
  starts_.push_back(0);
  for (const std::int64_t i : order_) {
    ADEPT_CHECK(i >= 0 && i < dataset_.num_documents(), "document {} of {}", i, dataset_.num_documents());
    starts_.push_back(starts_.back() + document_tokens(i));
  }
}

std::int64_t PackedStream::document_tokens(std::int64_t document) const {
  const bool add_eos = eos_ && dataset_.last_token(document) != *eos_;
  return dataset_.document_tokens(document) + std::ssize(tag_.ids) + (add_eos ? 1 : 0);
}

std::int64_t PackedStream::tag_position(std::int64_t document) const {
  return std::min(tag_.position, dataset_.document_tokens(document));
}

std::size_t PackedStream::part_at(std::int64_t position) const {
  return static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), position) - starts_.begin()) - 1;
}

PackedStream PackedStream::arranged(const PackedLayout& layout) const {
  if (layout.documents.empty()) return *this;
  ADEPT_CHECK(offsets_.empty() && layout.starts.back() == num_tokens(), "{} of {} tokens", layout.starts.back(),
              num_tokens());
  PackedStream stream(*this);
  stream.order_.clear();
  for (const std::int64_t document : layout.documents)
    stream.order_.push_back(order_[static_cast<std::size_t>(document)]);
  stream.offsets_ = layout.offsets;
  stream.starts_ = layout.starts;
  return stream;
}

void PackedStream::read(std::int64_t begin, std::span<std::int32_t> out) const {
  const auto size = static_cast<std::int64_t>(out.size());
  ADEPT_CHECK(begin >= 0 && begin <= num_tokens() && size <= num_tokens() - begin, "tokens {} + {} of {}", begin, size,
              num_tokens());
  if (size == 0) return;
  std::size_t part = part_at(begin);
  for (std::int64_t done = 0; done < size; ++part) {
    const std::int64_t in_part = begin + done - starts_[part];
    const std::int64_t take = std::min(size - done, starts_[part + 1] - starts_[part] - in_part);
    read_document(order_[part], offset(part) + in_part,
                  out.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(take)));
    done += take;
  }
}

// Tokens of a document in the stream: its first ones, the tag, the others, EOS.
void PackedStream::read_document(std::int64_t document, std::int64_t begin, std::span<std::int32_t> out) const {
  const std::int64_t num_ids = dataset_.document_tokens(document), num_tag = std::ssize(tag_.ids);
  const std::int64_t tag_begin = tag_position(document), tag_end = tag_begin + num_tag;
  const auto take_to = [&](std::int64_t end) {
    const auto taken = out.first(static_cast<std::size_t>(std::clamp<std::int64_t>(end - begin, 0, std::ssize(out))));
    out = out.subspan(taken.size());
    return taken;
  };
  const auto read_ids = [&](std::int64_t end, std::int64_t before) {
    const std::int64_t from = begin - before;
    if (const auto ids = take_to(end); !ids.empty()) {
      dataset_.read(document, from, ids);
      begin += std::ssize(ids);
    }
  };
  read_ids(tag_begin, 0);
  if (const auto ids = take_to(tag_end); !ids.empty()) {
    std::copy_n(tag_.ids.begin() + (begin - tag_begin), ids.size(), ids.begin());
    begin += std::ssize(ids);
  }
  read_ids(num_ids + num_tag, num_tag);
  if (!out.empty()) out.front() = *eos_;
}

std::vector<std::int32_t> PackedStream::starts_within(std::int64_t begin, std::int64_t size) const {
  std::vector<std::int32_t> starts;
  for (auto at = std::upper_bound(starts_.begin(), starts_.end(), begin); at != starts_.end() && *at < begin + size;
       ++at)
    starts.push_back(static_cast<std::int32_t>(*at - begin));
  return starts;
}

// In the stream's tokens of the document.
std::vector<TokenSpan> PackedStream::untrained_of(std::int64_t document) const {
  const std::int64_t num_ids = dataset_.document_tokens(document), num_tag = std::ssize(tag_.ids);
  const std::int64_t tag = tag_position(document);
  std::vector<TokenSpan> spans;
  const auto add = [&](std::int64_t begin, std::int64_t end) {
    if (begin >= end) return;
    if (!spans.empty() && spans.back().end == begin)
      spans.back().end = static_cast<std::int32_t>(end);
    else
      spans.push_back({static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end)});
  };
  const std::vector<TokenSpan> own = dataset_.untrained(document).spans;
  for (const TokenSpan& span : own) add(span.begin, std::min<std::int64_t>(span.end, tag));
  add(tag, tag + num_tag);
  for (const TokenSpan& span : own) add(std::max<std::int64_t>(span.begin, tag) + num_tag, span.end + num_tag);
  if (!own.empty() && own.back().end == num_ids) add(num_ids + num_tag, document_tokens(document));
  return spans;
}

std::vector<TokenSpan> PackedStream::untrained_within(std::int64_t begin, std::int64_t size) const {
  std::vector<TokenSpan> spans;
  if (!has_untrained() || size == 0) return spans;
  for (std::size_t part = part_at(begin); part < order_.size() && starts_[part] < begin + size; ++part) {
    const std::int64_t document = starts_[part] - offset(part);  // its first token, which may be in an earlier part
    for (const TokenSpan& span : untrained_of(order_[part])) {
      const std::int64_t from = std::max({document + span.begin, starts_[part], begin}) - begin;
      const std::int64_t to = std::min({document + span.end, starts_[part + 1], begin + size}) - begin;
      if (from < to) spans.push_back({static_cast<std::int32_t>(from), static_cast<std::int32_t>(to)});
    }
  }
  return spans;
}

std::int64_t PackedStream::untrained_tokens(std::int64_t document) const {
  std::int64_t tokens = 0;
  if (has_untrained())
    for (const TokenSpan& span : untrained_of(document)) tokens += span.end - span.begin;
  return tokens;
}

}  // namespace adept::data
