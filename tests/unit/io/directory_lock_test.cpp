#include "adept/io/directory_lock.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <thread>

#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

using test::data_error;
using test::TemporaryDirectory;

TEST(DirectoryLock, IsHeldByOneProcessAtATimeAndNamesIt) {
  const TemporaryDirectory directory;
  std::optional<DirectoryLock> lock(directory.path());
  // flock belongs to an open file, so a second one in the same process is as good as another process.
  EXPECT_THAT(
      data_error([&] { DirectoryLock second(directory.path()); }),
      testing::StartsWith(fmt::format("{}: process {} is using this folder", directory.path().string(), ::getpid())));
  lock.reset();
  EXPECT_NO_THROW(DirectoryLock(directory.path()));
}

TEST(DirectoryLock, EndsWithItsProcess) {
  const TemporaryDirectory directory;
  const pid_t child = ::fork();
  if (child == 0) {
    const DirectoryLock lock(directory.path());
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_NO_THROW(DirectoryLock(directory.path()));
}

TEST(DirectoryLock, WaitsForTheNextProcessToo) {
  const TemporaryDirectory directory;
  std::optional<DirectoryLock> lock(directory.path());
  EXPECT_FALSE(lock->waited());
  std::thread other([&] {
    const DirectoryLock second(directory.path(), OnLocked::kWait);
    EXPECT_TRUE(second.waited());
    // The first one's file is gone, and this lock holds a new one.
    EXPECT_THAT(data_error([&] { DirectoryLock third(directory.path()); }), testing::HasSubstr("is using this folder"));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  lock->remove_file();
  lock.reset();
  other.join();
}

TEST(DirectoryLock, SaysWhereItCannotBe) {
  EXPECT_THAT(data_error([] { DirectoryLock lock("/no/such/folder"); }),
              testing::HasSubstr("/no/such/folder/.lock: cannot create: No such file or directory"));
}

}  // namespace
}  // namespace adept::io
