// Which process checks which store.
#include "adept/run/same_texts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace adept::run {
namespace {

using ::testing::ElementsAre;
using Seen = std::vector<std::vector<std::string>>;

TEST(SameTexts, AreCheckedOnceOnEachMachine) {
  const std::vector<std::string> here = {"a 1", "a 2", "a 3"}, there = {"b 1", "b 2", "b 3"};
  const Seen seen = {here, there, here, there, there};  // dealt to the machines in turn
  EXPECT_THAT(detail::checked_by(seen, 0), ElementsAre(true, false, true));
  EXPECT_THAT(detail::checked_by(seen, 2), ElementsAre(false, true, false));
  EXPECT_THAT(detail::checked_by(seen, 1), ElementsAre(true, false, false));
  EXPECT_THAT(detail::checked_by(seen, 3), ElementsAre(false, true, false));
  EXPECT_THAT(detail::checked_by(seen, 4), ElementsAre(false, false, true));
}

TEST(SameTexts, InACacheOfItsOwnAreCheckedByEachProcess) {
  const Seen seen = {{"a 1", "a 2"}, {"a 1", "a 7"}};
  EXPECT_THAT(detail::checked_by(seen, 0), ElementsAre(true, true));
  EXPECT_THAT(detail::checked_by(seen, 1), ElementsAre(false, true));
}

TEST(SameTexts, AreCheckedAlsoWhereProcessesHaveDifferentNumbersOfThem) {
  const Seen seen = {{"a 1"}, {"a 1", "a 2"}};
  EXPECT_THAT(detail::checked_by(seen, 0), ElementsAre(true));
  EXPECT_THAT(detail::checked_by(seen, 1), ElementsAre(false, true));
}

}  // namespace
}  // namespace adept::run
