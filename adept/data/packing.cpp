#include "adept/data/packing.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "adept/core/error.h"

namespace adept::data {
namespace {

/// Part of a document.
struct Part {
  std::int64_t document = 0;
  std::int64_t offset = 0;
  std::int64_t size = 0;
};

PackedLayout concat(std::span<const std::int64_t> starts) { return {.groups = {0, starts.back()}}; }

// The parts of at most seq_len tokens into which every document is cut: the longest first, equal ones in order.
std::vector<Part> cut(std::span<const std::int64_t> starts, std::int64_t seq_len) {
  std::vector<Part> parts;
  parts.reserve(starts.size());
  for (std::size_t d = 0; d + 1 < starts.size(); ++d) {
    const std::int64_t size = starts[d + 1] - starts[d];
    for (std::int64_t offset = 0; offset < size; offset += seq_len)
      parts.push_back({static_cast<std::int64_t>(d), offset, std::min(seq_len, size - offset)});
  }
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.size > b.size; });
  return parts;
}

// Best-fit decreasing: the group of each part, by number.
std::vector<std::size_t> best_fit_groups(std::span<const Part> parts, std::int64_t seq_len) {
  std::map<std::int64_t, std::vector<std::size_t>> with_room;  // tokens of room -> groups, never empty
  std::vector<std::size_t> groups;
  groups.reserve(parts.size());
  std::size_t num_groups = 0;
  for (const Part& part : parts) {
    std::size_t group = num_groups;
    std::int64_t room = seq_len;
    if (const auto best = with_room.lower_bound(part.size); best != with_room.end()) {
      group = best->second.back();
      room = best->first;
      best->second.pop_back();
      if (best->second.empty()) with_room.erase(best);
    } else {
      ++num_groups;
    }
    groups.push_back(group);
    if (room > part.size) with_room[room - part.size].push_back(group);
  }
  return groups;
}

PackedLayout best_fit(std::span<const std::int64_t> starts, std::int64_t seq_len) {
  const std::vector<Part> parts = cut(starts, seq_len);
  const std::vector<std::size_t> groups = best_fit_groups(parts, seq_len);
  std::vector<std::size_t> by_group(parts.size());
  std::iota(by_group.begin(), by_group.end(), std::size_t{0});
  std::stable_sort(by_group.begin(), by_group.end(),
                   [&](std::size_t a, std::size_t b) { return groups[a] < groups[b]; });
  PackedLayout layout;
  layout.documents.reserve(parts.size());
  layout.offsets.reserve(parts.size());
  layout.starts.reserve(parts.size() + 1);
  std::int64_t at = 0;
  for (std::size_t i = 0; i < by_group.size(); ++i) {
    const Part& part = parts[by_group[i]];
    if (i == 0 || groups[by_group[i]] != groups[by_group[i - 1]]) layout.groups.push_back(at);
    layout.documents.push_back(part.document);
    layout.offsets.push_back(part.offset);
    layout.starts.push_back(at);
    at += part.size;
  }
  layout.starts.push_back(at);
  layout.groups.push_back(at);
  return layout;
}

}  // namespace

PackedLayout pack(Packing packing, std::span<const std::int64_t> starts, std::int64_t seq_len) {
  ADEPT_CHECK(!starts.empty() && starts.front() == 0 && seq_len >= 1, "{} starts, seq_len {}", starts.size(), seq_len);
  return packing == Packing::kBestFit ? best_fit(starts, seq_len) : concat(starts);
}

}  // namespace adept::data
