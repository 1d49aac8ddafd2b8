#include "adept/method/beyond/unit_parts.h"

#include <fmt/format.h>

#include <algorithm>

namespace adept::method {

std::int64_t slices_per_unit(const model::Parameter& p, const UnitGranularity& granularity) {
  if (p.slices.axis == model::Axis::kHead && granularity.by_head) return p.slices.size;
  if (p.slices.axis == model::Axis::kNeuron) return granularity.ffn_block_size * p.slices.size;
  return 0;
}

std::vector<Unit> parts_of(const Unit& whole, const model::Parameter& p, std::int64_t num_slices) {
  const model::Slices& slices = p.slices;
  const std::int64_t size = p.shape[static_cast<std::size_t>(slices.dim)], elements_of_slice = p.numel() / size;
  std::vector<Unit> parts;
  std::int64_t section_begin = 0;
  for (const std::int64_t section : slices.sections.empty() ? std::vector{size} : slices.sections) {
    for (std::int64_t begin = section_begin; begin < section_begin + section; begin += num_slices) {
      Unit& part = parts.emplace_back(whole);
      part.name =
          fmt::format("{}/{}.{}", p.name, slices.axis == model::Axis::kHead ? "head" : "block", parts.size() - 1);
      part.dim = slices.dim;
      part.begin = begin;
      part.end = std::min(begin + num_slices, section_begin + section);
      part.elements = (part.end - part.begin) * elements_of_slice;
    }
    section_begin += section;
  }
  return parts;
}

}  // namespace adept::method
