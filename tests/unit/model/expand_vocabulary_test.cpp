// The record of new tokens. What a model with new tokens computes is tested in tests/cli/test_expand_vocab.py.
#include "adept/model/expand_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/io/companion_files.h"
#include "adept/io/record.h"
#include "tests/support/reads.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_models.h"

namespace adept::model {
namespace {

using test::Says;
using ::testing::AllOf;

constexpr std::int64_t kVocabulary = 53;

TEST(NewTokens, AreReadFromTheirRecord) {
  const test::TemporaryDirectory dir;
  EXPECT_TRUE(added_tokens_of(dir.path(), kVocabulary).empty());
  io::write_record(dir / io::kAddedTokensRecord,
                   {{"version", 1}, {"tokens", {{{"id", 7}, {"token", "a"}}, {{"id", 52}, {"token", " b"}}}}});
  const std::vector<NewToken> tokens = added_tokens_of(dir.path(), kVocabulary);
  ASSERT_EQ(tokens.size(), 2U);
  EXPECT_EQ(tokens[0].id, 7);
  EXPECT_EQ(tokens[1].id, 52);
  EXPECT_EQ(tokens[1].text, " b");
}

TEST(NewTokens, OfAnotherModelOrVersionAreRefused) {
  const Json seven = {{"id", 7}, {"token", "a"}}, beyond = {{"id", 53}, {"token", "b"}};
  const std::vector<std::pair<Json, std::string>> cases = {
      {{{"version", 2}, {"tokens", Json::array()}}, "version is 2...reads version 1"},
      {{{"version", 1}}, "tokens is not a list"},
      {{{"version", 1}, {"tokens", {{{"id", "x"}, {"token", "a"}}}}}, "tokens is not a list"},
      {{{"version", 1}, {"tokens", {seven, seven}}}, "\"a\" has the id 7; expected ascending ids"},
      {{{"version", 1}, {"tokens", {seven, beyond}}}, "\"b\" has the id 53; expected...below 53"},
  };
  for (const auto& [record, message] : cases) {
    const test::TemporaryDirectory dir;
    io::write_record(dir / io::kAddedTokensRecord, record);
    EXPECT_THAT(test::message_of<DataError>([&] { added_tokens_of(dir.path(), kVocabulary); }),
                AllOf(Says(io::kAddedTokensRecord), Says(message), Says("Repeat adept expand-vocab")));
  }
}

}  // namespace
}  // namespace adept::model
