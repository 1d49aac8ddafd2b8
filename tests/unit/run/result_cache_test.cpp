#include "adept/run/result_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "adept/io/cache_directory.h"
#include "tests/support/captured_log.h"
#include "tests/support/environment.h"
#include "tests/support/tiny_models.h"

namespace adept::run {
namespace {

using ::testing::HasSubstr;

std::vector<std::filesystem::path> files_in(const std::filesystem::path& dir) {
  return {std::filesystem::directory_iterator(dir), {}};
}

TEST(ResultCache, FindsWhatWasKeptForTheSameKeyOnly) {
  const test::TemporaryDirectory dir;
  const ResultCache cache(dir / "results");
  const Json key = {{"model", "a"}, {"text", "b"}};
  EXPECT_FALSE(cache.find(key).has_value());
  EXPECT_TRUE(cache.keep(key, {{"loss", 0.1 + 0.2}}));
  EXPECT_EQ(ResultCache(dir / "results").find(key).value()["loss"], 0.1 + 0.2);
  EXPECT_FALSE(cache.find({{"model", "a"}, {"text", "c"}}).has_value());
  cache.remove(key);
  EXPECT_FALSE(cache.find(key).has_value());
}

TEST(ResultCache, ADamagedResultIsReportedAndMeasuredAgain) {
  const test::TemporaryDirectory dir;
  const ResultCache cache(dir.path());
  const Json key = {{"model", "a"}};
  cache.keep(key, {{"loss", 2.5}});
  const std::filesystem::path path = files_in(dir.path()).front();
  std::string bytes = test::read_file(path);
  bytes[bytes.find("2.5")] ^= 1;
  test::write_file(path, bytes);
  const test::CapturedLog log;
  EXPECT_FALSE(cache.find(key).has_value());
  EXPECT_THAT(log.text(), HasSubstr(path.string() + ": is damaged"));
  EXPECT_THAT(log.text(), HasSubstr("The measurement is repeated."));
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(ResultCache, MakesRoomByWhatWasNotUsedForLongest) {
  const test::TemporaryDirectory dir;
  const std::string large(1000, 'x');
  const ResultCache cache(dir.path(), /*most_bytes=*/3500);
  const auto now = std::filesystem::file_time_type::clock::now();
  for (int i = 0; i < 3; ++i) {
    const auto before = files_in(dir.path());
    cache.keep({{"key", i}}, large);
    for (const auto& path : files_in(dir.path()))
      if (std::find(before.begin(), before.end(), path) == before.end())
        std::filesystem::last_write_time(path, now - std::chrono::hours(9 - i));
  }
  EXPECT_TRUE(cache.find({{"key", 0}}).has_value()) << "the oldest is used";
  cache.keep({{"key", 3}}, large);
  EXPECT_EQ(files_in(dir.path()).size(), 3U);
  EXPECT_FALSE(cache.find({{"key", 1}}).has_value());
  for (const int left : {0, 2, 3}) EXPECT_TRUE(cache.find({{"key", left}}).has_value()) << left;
}

TEST(ResultCache, CanBeSwitchedOffAndAPlaceThatCannotBeWrittenIsNone) {
  const test::TemporaryDirectory dir;
  const test::ScopedVariable home("XDG_CACHE_HOME", (dir / "cache").string());
  {
    const test::ScopedVariable on("ADEPT_RESULT_CACHE", "on");
    EXPECT_EQ(ResultCache::open(dir / "own").directory(), dir / "cache" / "adept" / "results");
  }
  {
    const test::ScopedVariable off("ADEPT_RESULT_CACHE", "off");
    EXPECT_EQ(ResultCache::open(dir / "own").directory(), dir / "own");
    EXPECT_FALSE(ResultCache::open().keep({{"key", 1}}, 1));
    EXPECT_FALSE(ResultCache::open().find({{"key", 1}}).has_value());
  }
  const test::ScopedVariable wrong("ADEPT_RESULT_CACHE", "maybe");
  EXPECT_THAT(test::message_of<ConfigError>([] { ResultCache::open(); }),
              HasSubstr("ADEPT_RESULT_CACHE: found \"maybe\"; expected on or off."));
  test::write_file(dir / "file", "");
  EXPECT_FALSE(ResultCache(dir / "file" / "results").keep({{"key", 1}}, 1));
}

}  // namespace
}  // namespace adept::run
