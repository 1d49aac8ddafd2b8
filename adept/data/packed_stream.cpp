#include "adept/data/packed_stream.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "adept/core/error.h"

namespace adept::data {
namespace {

std::vector<std::int64_t> identity(std::int64_t n) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

}  // namespace

PackedStream::PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos)
    : PackedStream(dataset, eos, identity(dataset.num_documents())) {}

PackedStream::PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos, std::vector<std::int64_t> order)
    : dataset_(std::move(dataset)), eos_(eos), order_(std::move(order)) {
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
  return dataset_.document_tokens(document) + (add_eos ? 1 : 0);
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
  auto at = static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), begin) - starts_.begin()) - 1;
  for (std::int64_t done = 0; done < size; ++at) {
    const std::int64_t num_ids = dataset_.document_tokens(order_[at]);
    const std::int64_t offset = offsets_.empty() ? 0 : offsets_[at];
    const std::int64_t from = offset + begin + done - starts_[at];  // in the document, as is `end`
    const std::int64_t end = offset + starts_[at + 1] - starts_[at];
    const std::int64_t take = std::clamp<std::int64_t>(std::min(num_ids, end) - from, 0, size - done);
    if (take > 0)
      dataset_.read(order_[at], from, out.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(take)));
    done += take;
    const bool has_eos = end > num_ids;
    if (has_eos && done < size) out[static_cast<std::size_t>(done++)] = *eos_;
  }
}

std::vector<std::int32_t> PackedStream::starts_within(std::int64_t begin, std::int64_t size) const {
  std::vector<std::int32_t> starts;
  for (auto at = std::upper_bound(starts_.begin(), starts_.end(), begin); at != starts_.end() && *at < begin + size;
       ++at)
    starts.push_back(static_cast<std::int32_t>(*at - begin));
  return starts;
}

}  // namespace adept::data
