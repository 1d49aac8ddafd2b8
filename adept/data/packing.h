// How documents become sequences, from their lengths alone.
//
// To add a packing: its name in options.h and its function in the switch of packing.cpp.
//
// Legend: D documents, P parts of documents, G groups of parts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "adept/data/options.h"

namespace adept::data {

/// Parts of documents in the order of the sequences. Each group starts a sequence and is cut every seq_len tokens.
struct PackedLayout {
  // Empty: every part is a document, in the given order.
  std::vector<std::int64_t> documents{};  ///< (P): the document of each part
  std::vector<std::int64_t> offsets{};    ///< (P): where the part starts in its document
  std::vector<std::int64_t> starts{};     ///< (P + 1): where the part starts among all tokens; the last: their number
  std::vector<std::int64_t> groups{};     ///< (G + 1): where the group starts among all tokens; the last: their number
};

/// `starts`, (D + 1): documents in the order of training; document i has starts[i + 1] - starts[i] tokens, at least
/// one.
///
/// concat: one group of all documents.
/// best_fit: best-fit decreasing (Ding et al., Fewer Truncations Improve Language Modeling, arXiv:2404.10830). A
/// document longer than seq_len gives sequences of seq_len tokens and a remainder. Remainders and shorter documents,
/// the longest first, go to the group with the least room in which they fit whole, each group at most seq_len tokens.
/// O(D log seq_len).
PackedLayout pack(Packing packing, std::span<const std::int64_t> starts, std::int64_t seq_len);

}  // namespace adept::data
