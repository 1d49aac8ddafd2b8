#include "adept/core/nearest_name.h"

#include <gtest/gtest.h>

#include <vector>

namespace adept {
namespace {

TEST(EditDistance, CountsInsertionsDeletionsSubstitutionsAndSwaps) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("trian", "train"), 1u);
  EXPECT_EQ(edit_distance("ca", "abc"), 3u);  // optimal string alignment: no edit inside a swap
}

TEST(NearestName, FindsTheSlipAndOnlyASlip) {
  const std::vector<std::string> names = {"train", "eval", "expand", "generate"};
  EXPECT_EQ(nearest_name("trian", names), "train");
  EXPECT_EQ(nearest_name("expnd", names), "expand");
  EXPECT_EQ(nearest_name("genrate", names), "generate");
  EXPECT_EQ(nearest_name("xyz", names), "");
  EXPECT_EQ(nearest_name("", names), "");
  EXPECT_EQ(nearest_name("x", std::vector<std::string>{"y"}), "");
  EXPECT_EQ(nearest_name("train", {}), "");
}

TEST(NearestName, TakesTheClosestAndTheFirstOfEquals) {
  EXPECT_EQ(nearest_name("eval_step", std::vector<std::string>{"save_steps", "eval_steps"}), "eval_steps");
  EXPECT_EQ(nearest_name("bat", std::vector<std::string>{"cat", "rat"}), "cat");
}

TEST(NearestName, HugeNamesCostNothing) {
  EXPECT_EQ(nearest_name(std::string(1 << 20, 'x'), std::vector<std::string>{"train"}), "");
}

}  // namespace
}  // namespace adept
