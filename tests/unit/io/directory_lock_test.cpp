#include "adept/io/directory_lock.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

using test::data_error;
using test::names_in;
using test::TemporaryDirectory;

TEST(DirectoryLock, IsHeldByOneProcessAtATimeAndNamesIt) {
  const TemporaryDirectory directory;
  std::optional<DirectoryLock> lock(directory.path());
  // flock belongs to an open file, so a second one in the same process is as good as another process.
  EXPECT_EQ(data_error([&] { DirectoryLock second(directory.path()); }),
            fmt::format("{}: process {} is at work in this folder. Wait for it, or choose another one.",
                        directory.path().string(), ::getpid()));
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

TEST(DirectoryLock, RemovesTheTemporariesOfKilledProcessesAndNothingElse) {
  const TemporaryDirectory directory;
  std::filesystem::create_directories(directory / "data" / ".checkpoint-3.tmp-17-0012abcd" / "deep");
  test::write(directory / ".results.json.tmp-17-0012abcd", "half");
  for (const char* kept : {".tmp-17-0012abcd", "x.tmp-17-0012abcd", ".x.tmp-notes", ".x.tmp-17", ".hidden"})
    test::write(directory / kept, "mine");
  const DirectoryLock lock(directory.path());
  EXPECT_THAT(names_in(directory.path()),
              testing::UnorderedElementsAre(".lock", "data", ".tmp-17-0012abcd", "x.tmp-17-0012abcd", ".x.tmp-notes",
                                            ".x.tmp-17", ".hidden"));
  EXPECT_THAT(names_in(directory / "data"), testing::IsEmpty());
}

TEST(DirectoryLock, SaysWhereItCannotBe) {
  EXPECT_THAT(data_error([] { DirectoryLock lock("/no/such/folder"); }),
              testing::HasSubstr("/no/such/folder/.lock: cannot create: No such file or directory"));
}

}  // namespace
}  // namespace adept::io
