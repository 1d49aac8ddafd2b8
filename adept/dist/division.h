// Divides measurements over the processes of a job. The result has the same bits by any number of them.
//
// A measurement is a list of items, such as batches of text, each of one or more pieces, such as layers or sequences,
// which are computed on their own. Every piece is computed by one rank. Every rank then gets the numbers of all pieces
// and adds them in their order, as one process does.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/dist/process_group.h"

namespace adept::dist {

/// What a piece yields.
using Numbers = std::vector<double>;

/// The functions of a measurement, for items 0, 1, ...
struct Measurement {
  /// The pieces of an item.
  FunctionRef<std::int64_t(std::int64_t item)> num_pieces;
  /// The numbers of each of these pieces of an item, which are ascending. May throw InterruptedError.
  FunctionRef<std::vector<Numbers>(std::int64_t item, std::span<const std::int64_t> pieces)> measure;
  /// Called on every rank, for each item in turn, with the numbers of all of its pieces.
  FunctionRef<void(std::int64_t item, std::span<const Numbers> pieces)> add;
  /// Every rank measures a whole item in every round, and then, for nothing, as many further pieces as those with more
  /// have, so that all do the same at the same time. What several measure is kept once. For passes through layers that
  /// ranks share: every piece takes the same passes, or all items have as many. `measure` must not end early after a
  /// signal, unless every rank does so at the same place.
  bool in_step = false;
};

/// Measures `num_items` items in rounds: item by item while there is one for each rank; in the last round, each of the
/// items that are left belongs to several ranks, which divide its pieces. Ranks wait for each other after each round.
/// After a signal at any rank, every rank throws InterruptedError, and the items of whole rounds have been added.
void divide(ProcessGroup& group, std::int64_t num_items, const Measurement& measurement);

/// The same with items of one piece.
void divide(ProcessGroup& group, std::int64_t num_items, FunctionRef<Numbers(std::int64_t item)> measure,
            FunctionRef<void(std::int64_t item, const Numbers& numbers)> add, bool in_step = false);

/// The place of a rank among those that divide something else.
struct Share {
  int index = 0, count = 0;  ///< number `index` of `count`
};
/// Every rank calls it. Without a meaning for one that does not take part.
Share share_among(ProcessGroup& group, bool takes_part);

namespace detail {
/// The item of a rank in a round of `num_items` items, and which of the ranks with the same item it is.
struct Place {
  std::int64_t item = 0;
  int index = 0, count = 1;  ///< number `index` of `count`
};
Place place_of(int rank, int size, std::int64_t num_items);
/// Which of `count` ranks computes a piece. Neighbors take turns in alternating order, so that ranks have as much to do
/// if later pieces take less time.
int owner_of(std::int64_t piece, int count);
}  // namespace detail

}  // namespace adept::dist
