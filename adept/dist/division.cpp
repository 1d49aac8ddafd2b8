#include "adept/dist/division.h"

#include <algorithm>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/signals.h"

namespace adept::dist {
namespace {

/// The numbers of every rank, which may differ in how many they have.
std::vector<Numbers> gather_numbers(ProcessGroup& group, Numbers own) {
  const std::vector<Numbers> sizes = group.all_gather(Numbers{static_cast<double>(own.size())});
  const auto most = static_cast<std::size_t>(std::ranges::max_element(sizes)->front());
  own.resize(most);
  std::vector<Numbers> all = group.all_gather(own);
  for (std::size_t rank = 0; rank < all.size(); ++rank) all[rank].resize(static_cast<std::size_t>(sizes[rank].front()));
  return all;
}

/// A signal, then the size and the numbers of each piece.
Numbers to_numbers(int signal, const std::vector<Numbers>& pieces) {
  Numbers numbers = {static_cast<double>(signal)};
  for (const Numbers& piece : pieces) {
    numbers.push_back(static_cast<double>(piece.size()));
    numbers.insert(numbers.end(), piece.begin(), piece.end());
  }
  return numbers;
}

/// Reads what to_numbers() wrote.
class NumbersReader {
 public:
  explicit NumbersReader(const Numbers& numbers) : rest_(numbers) {}
  int signal() { return static_cast<int>(take(1).front()); }
  Numbers piece() {
    const std::span<const double> numbers = take(static_cast<std::size_t>(take(1).front()));
    return {numbers.begin(), numbers.end()};
  }

 private:
  std::span<const double> take(std::size_t count) {
    ADEPT_CHECK(count <= rest_.size(), "{} numbers are left, {} are wanted", rest_.size(), count);
    return std::exchange(rest_, rest_.subspan(count)).first(count);
  }
  std::span<const double> rest_;
};

class Round {
 public:
  Round(ProcessGroup& group, std::int64_t begin, std::int64_t num_items, const Measurement& measurement)
      : group_(group), begin_(begin), num_items_(num_items), measurement_(measurement) {}

  void run() {
    int signal = 0;
    std::vector<Numbers> own;
    if (measurement_.in_step) group_.throw_if_interrupted();
    try {
      if (!measurement_.in_step) throw_if_interrupted();
      own = measure();
    } catch (const InterruptedError& error) {  // the others stop at the same place
      signal = signal_of(error);
      own.clear();
    }
    const std::vector<Numbers> all = gather_numbers(group_, to_numbers(signal, own));
    std::vector<NumbersReader> readers(all.begin(), all.end());
    for (NumbersReader& reader : readers) signal = std::max(signal, reader.signal());
    if (signal != 0) throw interrupted_by(signal);
    for (std::int64_t i = 0, first = 0; i < num_items_; ++i) {
      const int count = detail::place_of(static_cast<int>(first), group_.size(), num_items_).count;
      std::vector<Numbers> pieces;
      for (std::int64_t piece = 0; piece < measurement_.num_pieces(begin_ + i); ++piece)
        pieces.push_back(readers[static_cast<std::size_t>(first + detail::owner_of(piece, count))].piece());
      measurement_.add(begin_ + i, pieces);
      first += count;
    }
  }

 private:
  std::vector<Numbers> measure() const {
    const detail::Place place = detail::place_of(group_.rank(), group_.size(), num_items_);
    const std::int64_t item = begin_ + place.item, num_pieces = measurement_.num_pieces(item);
    const auto is_own = [&](std::int64_t piece) { return detail::owner_of(piece, place.count) == place.index; };
    std::vector<std::int64_t> pieces;
    for (std::int64_t piece = 0; piece < num_pieces; ++piece)
      if (measurement_.in_step || is_own(piece)) pieces.push_back(piece);
    std::vector<Numbers> numbers, own;
    if (!pieces.empty()) numbers = measurement_.measure(item, pieces);
    ADEPT_CHECK(numbers.size() == pieces.size(), "{} results of {} pieces", numbers.size(), pieces.size());
    for (std::size_t i = 0; i < pieces.size(); ++i)
      if (is_own(pieces[i])) own.push_back(std::move(numbers[i]));
    if (measurement_.in_step) keep_in_step(num_pieces);
    return own;
  }

  // Measures what a rank with more pieces still does.
  void keep_in_step(std::int64_t num_measured) const {
    std::int64_t longest = begin_;
    for (std::int64_t item = begin_; item < begin_ + num_items_; ++item)
      if (measurement_.num_pieces(item) > measurement_.num_pieces(longest)) longest = item;
    std::vector<std::int64_t> rest;
    for (std::int64_t piece = num_measured; piece < measurement_.num_pieces(longest); ++piece) rest.push_back(piece);
    if (!rest.empty()) measurement_.measure(longest, rest);
  }

  ProcessGroup& group_;
  std::int64_t begin_, num_items_;
  const Measurement& measurement_;
};

}  // namespace

namespace detail {

Place place_of(int rank, int size, std::int64_t num_items) {
  // The ranks r with r * num_items / size == item.
  const std::int64_t item = rank * num_items / size;
  const auto first_of = [&](std::int64_t i) { return static_cast<int>((i * size + num_items - 1) / num_items); };
  return {.item = item, .index = rank - first_of(item), .count = first_of(item + 1) - first_of(item)};
}

int owner_of(std::int64_t piece, int count) {
  const auto turn = static_cast<int>(piece % (2 * count));
  return turn < count ? turn : 2 * count - 1 - turn;
}

}  // namespace detail

void divide(ProcessGroup& group, std::int64_t num_items, const Measurement& measurement) {
  for (std::int64_t begin = 0; begin < num_items; begin += group.size())
    Round(group, begin, std::min<std::int64_t>(group.size(), num_items - begin), measurement).run();
}

void divide(ProcessGroup& group, std::int64_t num_items, FunctionRef<Numbers(std::int64_t item)> measure,
            FunctionRef<void(std::int64_t item, const Numbers& numbers)> add, bool in_step) {
  divide(
      group, num_items,
      {.num_pieces = [](std::int64_t) { return std::int64_t{1}; },
       .measure = [&](std::int64_t item, std::span<const std::int64_t>) { return std::vector<Numbers>{measure(item)}; },
       .add = [&](std::int64_t item, std::span<const Numbers> pieces) { add(item, pieces.front()); },
       .in_step = in_step});
}

Share share_among(ProcessGroup& group, bool takes_part) {
  Share share;
  const std::vector<Numbers> all = group.all_gather(Numbers{takes_part ? 1.0 : 0.0});
  for (int rank = 0; rank < group.size(); ++rank) {
    if (rank == group.rank()) share.index = share.count;
    if (all[static_cast<std::size_t>(rank)].front() > 0) ++share.count;
  }
  return share;
}

}  // namespace adept::dist
