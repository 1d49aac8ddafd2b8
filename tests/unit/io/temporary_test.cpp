#include "adept/io/temporary.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "adept/io/atomic_file.h"
#include "tests/support/captured_log.h"
#include "tests/unit/io/support.h"

namespace {
int g_flock_error = 0;
}  // namespace

extern "C" int flock(int fd, int operation) noexcept {
  if (g_flock_error == 0) return static_cast<int>(syscall(SYS_flock, fd, operation));
  errno = g_flock_error;
  return -1;
}

namespace adept::io {
namespace {

using test::names_in;
using test::TemporaryDirectory;
using testing::Contains;
using testing::HasSubstr;
using Names = std::set<std::string>;

// Another process, which writes a file and a folder and then ends by itself.
template <typename End>
int end_while_writing(const TemporaryDirectory& directory, End&& end) {
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(directory / "x.json");
    AtomicDirectory folder(directory / "model");
    test::write(folder.path() / "weights", "half");
    end();
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

void leave_temporaries(const TemporaryDirectory& directory) {
  ASSERT_TRUE(WIFSIGNALED(end_while_writing(directory, [] { ::kill(::getpid(), SIGKILL); })));
  ASSERT_EQ(names_in(directory.path()).size(), 2U);
}

TEST(Temporaries, OfAKilledProcessAreRemovedByTheNextWriterOfTheSameTarget) {
  const TemporaryDirectory directory;
  leave_temporaries(directory);
  write_file_atomically(directory / "other", "1");
  EXPECT_EQ(names_in(directory.path()).size(), 3U) << "they are of other targets";
  write_file_atomically(directory / "x.json", "1");
  AtomicDirectory(directory / "model").commit();
  EXPECT_EQ(names_in(directory.path()), (Names{"other", "x.json", "model"}));
}

TEST(Temporaries, OfAKilledProcessAreRemovedFromAFolderAndNothingElse) {
  const TemporaryDirectory directory;
  leave_temporaries(directory);
  const Names kept = {"other-run", ".tmp-0123456789abcdef",     "x.tmp-0123456789abcdef", ".x.tmp-notes",
                      ".hidden",   ".only.old-0123456789abcdef"};
  for (const std::string& name : kept)
    if (name != "other-run") test::write(directory / name, "mine");
  std::filesystem::create_directories(directory / "other-run");
  test::write(directory / "other-run/.x.tmp-0123456789abcdef", "not of this folder");
  remove_temporaries(directory.path());
  EXPECT_EQ(names_in(directory.path()), kept);
  EXPECT_EQ(names_in(directory / "other-run"), Names{".x.tmp-0123456789abcdef"});
  test::write(directory / "only", "is there again");
  remove_temporaries(directory.path());
  EXPECT_THAT(names_in(directory.path()), testing::Not(Contains(".only.old-0123456789abcdef")));
  EXPECT_NO_THROW(remove_temporaries("/no/such/folder"));
}

TEST(Temporaries, OfALivingWriterStay) {
  const TemporaryDirectory directory;
  AtomicFile first(directory / "x");
  AtomicDirectory folder(directory / "d");
  first.write("first");
  remove_temporaries(directory.path());
  AtomicFile second(directory / "x");
  AtomicDirectory other(directory / "d", OnExisting::kReplace);
  second.commit();
  first.commit();
  other.commit();
  EXPECT_EQ(test::read(directory / "x"), "first");
  EXPECT_TRUE(std::filesystem::exists(folder.path()));
}

TEST(Temporaries, DoNotDependOnTheProcessId) {
  const TemporaryDirectory directory;
  const AtomicFile first(directory / "x"), second(directory / "x");
  for (const std::string& name : names_in(directory.path()))
    EXPECT_THAT(name, testing::Not(HasSubstr(std::to_string(::getpid()))));
  EXPECT_EQ(names_in(directory.path()).size(), 2U);
}

TEST(Temporaries, AreRemovedWhereALibraryEndsTheProcess) {
  const TemporaryDirectory directory;
  const int status = end_while_writing(directory, [] { std::exit(1); });
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_TRUE(names_in(directory.path()).empty());
}

TEST(Temporaries, AreWrittenWithoutLocksWhereThereAreNoneAndThoseLeftAreNamed) {
  const TemporaryDirectory directory;
  leave_temporaries(directory);
  g_flock_error = ENOLCK;
  const adept::test::CapturedLog log;
  write_file_atomically(directory / "x.json", "1");
  g_flock_error = 0;
  EXPECT_EQ(test::read(directory / "x.json"), "1");
  EXPECT_EQ(names_in(directory.path()).size(), 3U);
  EXPECT_THAT(log.text(),
              testing::AllOf(HasSubstr("/.x.json.tmp-"), HasSubstr("does not support locks (No locks available)")));
}

}  // namespace
}  // namespace adept::io
