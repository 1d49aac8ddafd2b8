#include "adept/data/tokenizer/string_matcher.h"

#include <algorithm>
#include <numeric>

#include "adept/core/signals.h"

namespace adept::data::tok {
namespace {

constexpr std::size_t kBlockBytes = 64 * 1024;

std::uint64_t edge(std::uint32_t node, char byte) {
  return static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
}

}  // namespace

void StringMatcher::add(std::string_view text, std::int32_t value) {
  std::uint32_t node = 0;
  for (auto byte = text.rbegin(); byte != text.rend(); ++byte) {
    const auto [place, is_new] = children_.emplace(edge(node, *byte), static_cast<std::uint32_t>(values_.size()));
    if (is_new) {
      values_.push_back(-1);
      lengths_.push_back(lengths_[node] + 1);
      parents_.push_back(place->first);
    }
    node = place->second;
  }
  values_[node] = value;
  max_length_ = std::max(max_length_, text.size());
  last_bytes_[static_cast<unsigned char>(text.back())] = true;
}

void StringMatcher::prepare() {
  std::vector<std::uint32_t> order(values_.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return lengths_[a] < lengths_[b]; });
  suffixes_.assign(values_.size(), 0);
  longest_.assign(values_.size(), 0);
  for (const std::uint32_t node : order) {
    const auto parent = static_cast<std::uint32_t>(parents_[node] >> 8);
    const auto byte = static_cast<char>(static_cast<unsigned char>(parents_[node] & 0xFF));
    if (parent != 0) {
      std::uint32_t suffix = suffixes_[parent];
      while (suffix != 0 && child(suffix, byte) == 0) suffix = suffixes_[suffix];
      suffixes_[node] = child(suffix, byte);
    }
    longest_[node] = values_[node] >= 0 ? node : longest_[suffixes_[node]];
  }
}

std::uint32_t StringMatcher::child(std::uint32_t node, char byte) const {
  const auto found = children_.find(edge(node, byte));
  return found == children_.end() ? 0 : found->second;
}

void StringMatcher::Matches::scan_block() {
  throw_if_interrupted();
  const std::size_t begin = scanned_;
  scanned_ = std::min(text_.size(), begin + kBlockBytes);
  // A match that begins in the block may end after it.
  const std::size_t end = std::min(text_.size(), scanned_ + matcher_.max_length_);
  std::uint32_t node = 0;
  for (std::size_t i = end; i-- > begin;) {
    const char byte = text_[i];
    if (node == 0 && !matcher_.last_bytes_[static_cast<unsigned char>(byte)]) continue;
    std::uint32_t next = matcher_.child(node, byte);
    while (next == 0 && node != 0) {
      node = matcher_.suffixes_[node];
      next = matcher_.child(node, byte);
    }
    node = next;
    const std::uint32_t match = matcher_.longest_[node];
    if (match != 0 && i < scanned_) candidates_.push_back({i, i + matcher_.lengths_[match], matcher_.values_[match]});
  }
}

bool StringMatcher::Matches::next(Match& match) {
  if (matcher_.empty()) return false;
  for (;;) {
    while (!candidates_.empty()) {
      match = candidates_.back();
      candidates_.pop_back();
      if (match.begin < from_) continue;
      from_ = match.end;
      return true;
    }
    if (scanned_ == text_.size()) return false;
    scan_block();
  }
}

}  // namespace adept::data::tok
