#include "adept/dist/division.h"

#include <fmt/ranges.h>
#include <gmock/gmock.h>

#include <csignal>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "processes.h"

namespace adept::dist {
namespace {

using test::Outcome;
using testing::HasSubstr;

TEST(Division, GivesARankAnItemOrAShareOfOne) {
  const auto places = [](int size, std::int64_t num_items) {
    std::vector<std::string> found;
    for (int rank = 0; rank < size; ++rank) {
      const detail::Place place = detail::place_of(rank, size, num_items);
      found.push_back(fmt::format("{}: {}/{}", place.item, place.index, place.count));
    }
    return found;
  };
  EXPECT_THAT(places(3, 3), testing::ElementsAre("0: 0/1", "1: 0/1", "2: 0/1"));
  EXPECT_THAT(places(3, 1), testing::ElementsAre("0: 0/3", "0: 1/3", "0: 2/3"));
  EXPECT_THAT(places(5, 2), testing::ElementsAre("0: 0/3", "0: 1/3", "0: 2/3", "1: 0/2", "1: 1/2"));
}

TEST(Division, AlternatesTheOrderOfRanksAmongPieces) {
  std::vector<int> owners;
  for (std::int64_t piece = 0; piece < 8; ++piece) owners.push_back(detail::owner_of(piece, 3));
  EXPECT_THAT(owners, testing::ElementsAre(0, 1, 2, 2, 1, 0, 0, 1));
}

// Item i has i + 1 pieces, of which piece p has p numbers; the log lists what this rank measured.
std::string measured_by(ProcessGroup& group, std::int64_t num_items, std::vector<std::string>& log,
                        bool in_step = false) {
  std::string result;
  divide(
      group, num_items,
      {.num_pieces = [](std::int64_t item) { return item + 1; },
       .measure =
           [&](std::int64_t item, std::span<const std::int64_t> pieces) {
             log.push_back(fmt::format("{}: {}", item, fmt::join(pieces, ",")));
             std::vector<Numbers> numbers;
             for (const std::int64_t piece : pieces)
               numbers.emplace_back(static_cast<std::size_t>(piece), 1 / (1.0 + static_cast<double>(item)));
             return numbers;
           },
       .add = [&](std::int64_t item,
                  std::span<const Numbers> pieces) { result += fmt::format("{} {}\n", item, fmt::join(pieces, " ")); },
       .in_step = in_step});
  return result;
}

TEST(Division, GivesEveryRankTheNumbersOfAllPiecesInOrder) {
  ProcessGroup alone;
  std::vector<std::string> log;
  const std::string expected = measured_by(alone, 5, log);
  EXPECT_EQ(log.size(), 5U);
  for (const int size : {2, 3, 7})
    for (const Outcome& outcome : test::run_job(size, [](ProcessGroup& group) {
           std::vector<std::string> own;
           return measured_by(group, 5, own);
         }))
      EXPECT_EQ(outcome.text, expected) << size;
}

TEST(Division, LeavesEachPieceToOneRank) {
  const auto outcomes = test::run_job(2, [](ProcessGroup& group) {
    std::vector<std::string> own;
    measured_by(group, 5, own);
    return fmt::format("{}", fmt::join(own, "; "));
  });
  EXPECT_EQ(outcomes[0].text, "0: 0; 2: 0,1,2; 4: 0,3,4");
  EXPECT_EQ(outcomes[1].text, "1: 0,1; 3: 0,1,2,3; 4: 1,2");
}

TEST(Division, InStepLetsEveryRankMeasureInEveryRound) {
  for (const int size : {1, 3})
    for (const Outcome& outcome : test::run_job(size, [](ProcessGroup& group) {
           std::int64_t num_measured = 0;
           Numbers sums;
           divide(
               group, 4,
               [&](std::int64_t item) {
                 ++num_measured;
                 return Numbers{static_cast<double>(item)};
               },
               [&](std::int64_t, const Numbers& numbers) { sums.push_back(numbers.front()); }, /*in_step=*/true);
           return fmt::format("{} for {}", num_measured, fmt::join(sums, " "));
         }))
      EXPECT_EQ(outcome.text, size == 1 ? "4 for 0 1 2 3" : "2 for 0 1 2 3");
}

TEST(Division, InStepLetsEveryRankMeasureAsManyPieces) {
  ProcessGroup alone;
  std::vector<std::string> log;
  const std::string expected = measured_by(alone, 5, log);
  const auto outcomes = test::run_job(2, [](ProcessGroup& group) {
    std::vector<std::string> own;
    const std::string result = measured_by(group, 5, own, /*in_step=*/true);
    return fmt::format("{}{}", result, fmt::join(own, "; "));
  });
  EXPECT_EQ(outcomes[0].text, expected + "0: 0; 1: 1; 2: 0,1,2; 3: 3; 4: 0,1,2,3,4");
  EXPECT_EQ(outcomes[1].text, expected + "1: 0,1; 3: 0,1,2,3; 4: 0,1,2,3,4");
}

TEST(Division, EndsEveryRankAtTheSameItemAfterASignalAtOne) {
  const auto outcomes = test::run_job(2, [](ProcessGroup& group) {
    install_signal_handlers();
    std::int64_t added = 0;
    try {
      divide(
          group, 10,
          [&](std::int64_t item) {
            if (item == 5) ::raise(SIGTERM);
            throw_if_interrupted();
            return Numbers{1};
          },
          [&](std::int64_t, const Numbers&) { ++added; });
    } catch (const InterruptedError& error) {
      throw InterruptedError(fmt::format("{}; {} items", error.what(), added), error.exit_code());
    }
    return std::string();
  });
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.exit_code, 143);
    EXPECT_EQ(outcome.text, "terminated (SIGTERM); 4 items");
  }
}

TEST(Division, NamesTheRankWhoseShareFails) {
  const auto outcomes = test::run_job(3, [](ProcessGroup& group) {
    divide(
        group, 7,
        [](std::int64_t item) {
          if (item == 4) throw DataError("the text of item 4 is damaged");
          return Numbers{1};
        },
        [](std::int64_t, const Numbers&) {});
    return std::string();
  });
  for (const int other : {0, 2}) {
    EXPECT_EQ(outcomes[static_cast<std::size_t>(other)].exit_code, 1);
    EXPECT_THAT(outcomes[static_cast<std::size_t>(other)].text,
                HasSubstr("rank 1 ended: the text of item 4 is damaged"));
  }
}

TEST(Division, CountsTheRanksThatTakePart) {
  const auto outcomes = test::run_job(4, [](ProcessGroup& group) {
    const Share share = share_among(group, group.rank() % 2 == 1);
    return fmt::format("{} of {}", share.index, share.count);
  });
  EXPECT_EQ(outcomes[1].text, "0 of 2");
  EXPECT_EQ(outcomes[3].text, "1 of 2");
}

}  // namespace
}  // namespace adept::dist
