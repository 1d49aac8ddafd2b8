#include "adept/data/untrained_tokens.h"

#include <algorithm>
#include <string_view>

#include "adept/core/signals.h"

namespace adept::data {
namespace {

// The first ids of a text that those of its beginning have in common with them.
std::int32_t common_ids(const TextEncoder& encoder, std::string_view beginning, std::span<const std::int32_t> ids) {
  std::size_t count = 0;
  bool differs = false;
  encoder.encode(beginning, [&](std::span<const std::int32_t> part) {
    throw_if_interrupted();
    if (differs) return;
    const auto shared = static_cast<std::size_t>(std::ranges::mismatch(part, ids.subspan(count)).in1 - part.begin());
    count += shared;
    differs = shared < part.size();
  });
  return static_cast<std::int32_t>(count);
}

}  // namespace

Untrained untrained_tokens(const TextEncoder& encoder, const Document& document, std::span<const std::int32_t> ids) {
  Untrained untrained;
  if (document.answers.empty()) return untrained;
  const std::string_view text = document.text;
  const auto position = [&](std::size_t byte) {
    return byte == text.size() ? static_cast<std::int32_t>(ids.size()) : common_ids(encoder, text.substr(0, byte), ids);
  };
  std::int32_t at = 0;
  untrained.bytes = std::ssize(text);
  for (const TextSpan& answer : document.answers) {
    const std::int32_t begin = std::max(at, position(answer.begin)), end = position(answer.end);
    untrained.bytes -= static_cast<std::int64_t>(answer.end - answer.begin);
    if (begin >= end) continue;
    if (at < begin) untrained.spans.push_back({at, begin});
    at = end;
  }
  const auto last = static_cast<std::int32_t>(ids.size());
  if (at < last) untrained.spans.push_back({at, last});
  if (untrained.empty()) untrained.bytes = 0;
  return untrained;
}

}  // namespace adept::data
