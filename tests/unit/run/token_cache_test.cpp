#include "adept/run/token_cache.h"

#include <gmock/gmock.h>

#include <chrono>
#include <memory>

#include "adept/core/error.h"
#include "adept/data/store/token_store.h"
#include "adept/io/directory_lock.h"
#include "tests/support/captured_log.h"
#include "tests/support/environment.h"
#include "tests/support/files.h"
#include "tests/support/temporary_directory.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class TokenCacheLimit : public ::testing::Test {
 protected:
  // A store of 1000 ids (and a kilobyte or two of records), last used some hours ago.
  fs::path make_store(const std::string& name, int hours) {
    const fs::path folder = cache_ / name;
    data::build_store(folder, {.name = name, .vocab_size = 100, .source_fingerprint = name}, {},
                      [&](data::StoreWriter& writer) {
                        writer.add(std::vector<std::int32_t>(1000, 7), 3000);
                        return data::DatasetInfo{.name = name, .vocab_size = 100, .source_fingerprint = name};
                      });
    set_used(folder, hours);
    return folder;
  }
  static void set_used(const fs::path& folder, int hours) {
    fs::last_write_time(folder, fs::file_time_type::clock::now() - std::chrono::hours(hours));
  }
  static std::int64_t bytes_of(const fs::path& folder) {
    std::int64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(folder)) bytes += static_cast<std::int64_t>(entry.file_size());
    return bytes;
  }

  const test::TemporaryDirectory cache_folder_;
  const fs::path cache_ = cache_folder_.path();
  const fs::path a_ = make_store("a", 3), b_ = make_store("b", 9), c_ = make_store("c", 6);
  const std::int64_t all_bytes_ = bytes_of(a_) + bytes_of(b_) + bytes_of(c_);
};

TEST_F(TokenCacheLimit, RemovesWhatWasNotUsedForLongestUntilTheRestFits) {
  limit_token_cache(cache_, all_bytes_);
  EXPECT_TRUE(fs::exists(a_) && fs::exists(b_) && fs::exists(c_)) << "they fit";
  const test::CapturedLog log;
  limit_token_cache(cache_, all_bytes_ - 1);
  EXPECT_TRUE(fs::exists(a_) && !fs::exists(b_) && fs::exists(c_));
  EXPECT_THAT(log.text(), HasSubstr(b_.string() + ": removed, because all take more than "));
  EXPECT_THAT(log.text(), HasSubstr("ADEPT_TOKEN_CACHE_GB"));
  limit_token_cache(cache_, 1);
  EXPECT_TRUE(fs::is_empty(cache_));
}

TEST_F(TokenCacheLimit, KeepsWhatAProcessHasOpenOrBuilds) {
  auto dataset = std::make_unique<data::TokenDataset>(data::open_store(b_));
  auto building = std::make_unique<io::DirectoryLock>(c_);
  for (const fs::path& folder : {a_, b_, c_}) set_used(folder, 24 * 31);
  limit_token_cache(cache_, 1);
  EXPECT_TRUE(!fs::exists(a_) && fs::exists(b_) && fs::exists(c_));
  EXPECT_EQ(dataset->num_tokens(), 1000);
  dataset.reset();
  building.reset();
  limit_token_cache(cache_, 1);
  EXPECT_TRUE(fs::is_empty(cache_));
}

TEST_F(TokenCacheLimit, RemovesWhatWasNotUsedForAMonthThoughItFits) {
  set_used(a_, 24 * 30 + 1);
  set_used(b_, 24 * 30 - 1);
  const test::CapturedLog log;
  limit_token_cache(cache_, all_bytes_);
  EXPECT_TRUE(!fs::exists(a_) && fs::exists(b_) && fs::exists(c_));
  EXPECT_THAT(log.text(), HasSubstr(a_.string() + ": removed, because no run used these tokens for 30 days"));
}

TEST_F(TokenCacheLimit, IsThatOfTheVariableOrAShareOfTheDisk) {
  {
    const test::ScopedVariable unset("ADEPT_TOKEN_CACHE_GB", "");
    EXPECT_EQ(most_token_cache_bytes(cache_), static_cast<std::int64_t>(fs::space(cache_).capacity / 5));
  }
  {
    const test::ScopedVariable half("ADEPT_TOKEN_CACHE_GB", "0.5");
    EXPECT_EQ(most_token_cache_bytes(cache_), 500'000'000);
  }
  for (const char* wrong : {"0", "-1", "nan", "much", "5 GB", "1e30"}) {
    const test::ScopedVariable variable("ADEPT_TOKEN_CACHE_GB", wrong);
    EXPECT_THAT(test::message_of<ConfigError>([&] { most_token_cache_bytes(cache_); }),
                HasSubstr(fmt::format("ADEPT_TOKEN_CACHE_GB: found \"{}\"; expected", wrong)));
  }
}

}  // namespace
}  // namespace adept::run
