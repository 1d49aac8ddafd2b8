#include "adept/io/atomic_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <optional>
#include <thread>

#include "adept/io/mapped_file.h"
#include "tests/unit/io/support.h"

namespace {
// The calls that the test makes fail: the program's own definitions come before the C library's.
int g_fsync_error = 0;
int g_rename_error = 0;
int g_exchange_error = 0;
int g_num_fsyncs = 0;

int fail_with(int error_number) {
  errno = error_number;
  return -1;
}
}  // namespace

extern "C" int fsync(int fd) {
  ++g_num_fsyncs;
  if (g_fsync_error != 0) return fail_with(g_fsync_error);
  return static_cast<int>(syscall(SYS_fsync, fd));
}

extern "C" int rename(const char* from, const char* to) noexcept {
  if (g_rename_error != 0) return fail_with(g_rename_error);
  return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

extern "C" int renameat2(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) noexcept {
  if (g_exchange_error != 0) return fail_with(g_exchange_error);
  return static_cast<int>(syscall(SYS_renameat2, from_fd, from, to_fd, to, flags));
}

namespace adept::io {
namespace {

using test::data_error;
using test::names_in;
using test::TemporaryDirectory;
using testing::AllOf;
using testing::HasSubstr;
using Names = std::set<std::string>;

// Sets a variable until the end of the scope.
class Injected {
 public:
  Injected(int& variable, int value) : variable_(variable) { variable_ = value; }
  ~Injected() { variable_ = 0; }

 private:
  int& variable_;
};

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const TemporaryDirectory directory;
  AtomicFile file(directory / "x.json");
  file.write("one ");
  file.write("two");
  EXPECT_FALSE(std::filesystem::exists(directory / "x.json"));
  file.commit();
  EXPECT_EQ(test::read(directory / "x.json"), "one two");
  EXPECT_EQ(names_in(directory.path()), Names{"x.json"});
}

TEST(AtomicFile, IsForgottenWithoutACommit) {
  const TemporaryDirectory directory;
  test::write(directory / "x", "old");
  {
    AtomicFile file(directory / "x");
    file.write("new");
    EXPECT_EQ(names_in(directory.path()).size(), 2U);
  }
  EXPECT_EQ(test::read(directory / "x"), "old");
  EXPECT_EQ(names_in(directory.path()), Names{"x"});
}

TEST(AtomicFile, TwoWritersOfOneNameDoNotMeet) {
  const TemporaryDirectory directory;
  AtomicFile first(directory / "x"), second(directory / "x");
  first.write("first");
  second.write("second");
  second.commit();
  first.commit();
  EXPECT_EQ(test::read(directory / "x"), "first");
}

TEST(AtomicFile, SynchronisesFileAndDirectory) {
  const TemporaryDirectory directory;
  g_num_fsyncs = 0;
  write_file_atomically(directory / "x", "text");
  EXPECT_EQ(g_num_fsyncs, 2);
}

TEST(AtomicFile, FollowsTheUmask) {
  const TemporaryDirectory directory;
  const mode_t old = umask(027);
  write_file_atomically(directory / "x", "text");
  umask(old);
  EXPECT_EQ(std::filesystem::status(directory / "x").permissions(), std::filesystem::perms(0640));
}

TEST(AtomicFile, AcceptsTheLongestName) {
  const TemporaryDirectory directory;
  const std::string name(255, 'n');
  write_file_atomically(directory / name, "text");
  EXPECT_EQ(names_in(directory.path()), Names{name});
}

TEST(AtomicFile, FaultsNameThePathAndLeaveNothingBehind) {
  const TemporaryDirectory directory;
  const auto path = directory / "x";
  test::write(path, "old");
  {
    const Injected fault(g_fsync_error, EIO);
    EXPECT_THAT(
        data_error([&] { write_file_atomically(path, "new"); }),
        AllOf(HasSubstr(path.string() + ": cannot write to the disk (fsync): Input/output error"), HasSubstr("dmesg")));
  }
  {
    const Injected fault(g_rename_error, EACCES);
    EXPECT_THAT(
        data_error([&] { write_file_atomically(path, "new"); }),
        AllOf(HasSubstr(path.string() + ": cannot rename to: Permission denied"), HasSubstr("Check the owner")));
  }
  EXPECT_EQ(test::read(path), "old");
  EXPECT_EQ(names_in(directory.path()), Names{"x"});
}

TEST(AtomicFile, RefusesImpossiblePaths) {
  const TemporaryDirectory directory;
  test::write(directory / "file", "");
  EXPECT_THAT(data_error([&] { AtomicFile(directory / "none/x"); }),
              AllOf(HasSubstr("/none/x: cannot create: No such file or directory"), HasSubstr("create the folder")));
  EXPECT_THAT(data_error([&] { AtomicFile(directory / "file/x"); }), HasSubstr("Not a directory"));
  EXPECT_THAT(data_error([&] { AtomicFile(directory.path()); }), HasSubstr("is a folder; expected the path of a file"));
  EXPECT_THAT(data_error([&] { AtomicFile(directory / ""); }), HasSubstr("is a folder; expected the path of a file"));
}

// Runs as another user where the tests run as root, whom permissions do not bind.
class WithoutRoot {
 public:
  WithoutRoot() {
    if (geteuid() == 0) is_changed_ = seteuid(65534) == 0;
  }
  ~WithoutRoot() {
    if (is_changed_ && seteuid(0) != 0) std::abort();
  }

 private:
  bool is_changed_ = false;
};

TEST(AtomicFile, AReadOnlyDirectoryIsReported) {
  const TemporaryDirectory directory;
  ASSERT_EQ(chmod(directory.path().c_str(), 0555), 0);
  {
    const WithoutRoot user;
    EXPECT_THAT(data_error([&] { write_file_atomically(directory / "x", "new"); }), HasSubstr("Permission denied"));
    EXPECT_THAT(data_error([&] { AtomicDirectory(directory / "d"); }),
                HasSubstr("/d: cannot create: Permission denied"));
  }
  ASSERT_EQ(chmod(directory.path().c_str(), 0755), 0);
  EXPECT_TRUE(names_in(directory.path()).empty());
}

TEST(AtomicFile, ALimitedFileSizeIsReportedAndCleanedUp) {
  const TemporaryDirectory directory;
  const auto path = directory / "x";
  test::write(path, "old");
  rlimit old_limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {1 << 20, old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string message = data_error([&] { write_file_atomically(path, std::string(3 << 20, 'x')); });
  setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(message, AllOf(HasSubstr(path.string() + ": cannot write: File too large"), HasSubstr("ulimit -f")));
  EXPECT_EQ(test::read(path), "old");
  EXPECT_EQ(names_in(directory.path()), Names{"x"});
}

TEST(AtomicFile, AFullDiskIsReportedAndCleanedUp) {
  const TemporaryDirectory directory;
  if (mount("tmpfs", directory.path().c_str(), "tmpfs", 0, "size=1m") != 0)
    GTEST_SKIP() << "a file system of 1 MB cannot be mounted here (needs root)";
  test::write(directory / "x", "old");
  const std::string large(3 << 20, 'x');
  EXPECT_THAT(data_error([&] { write_file_atomically(directory / "x", large); }),
              AllOf(HasSubstr("/x: cannot write: No space left on device"), HasSubstr("Free space")));
  EXPECT_EQ(test::read(directory / "x"), "old");
  const auto tensor = test::make_tensor("a", DType::kU8, {3 << 20}, 1);
  EXPECT_THAT(data_error([&] { write_safetensors(directory / "y", std::vector{tensor.view}); }),
              HasSubstr("No space left on device"));
  {
    AtomicDirectory output(directory / "out");
    EXPECT_THAT(data_error([&] { write_file_atomically(output.path() / "z", large); }), HasSubstr("No space left"));
  }
  EXPECT_EQ(names_in(directory.path()), Names{"x"});
  EXPECT_EQ(umount2(directory.path().c_str(), MNT_DETACH), 0);
}

TEST(AtomicDirectory, AppearsWholeWhenCommitted) {
  const TemporaryDirectory directory;
  const auto path = directory / "runs/one/model";  // parents are made
  {
    AtomicDirectory output(path);
    EXPECT_EQ(output.path().parent_path(), path.parent_path());
    EXPECT_EQ(output.path().filename().string().front(), '.');
    std::filesystem::create_directory(output.path() / "sub");
    test::write(output.path() / "a", "1");
    test::write(output.path() / "sub/b", "2");
    EXPECT_FALSE(std::filesystem::exists(path));
    g_num_fsyncs = 0;
    output.commit();
    EXPECT_EQ(g_num_fsyncs, 5) << "two files, two directories, the parent";
  }
  EXPECT_EQ(names_in(path), (Names{"a", "sub"}));
  EXPECT_EQ(test::read(path / "sub/b"), "2");
  EXPECT_EQ(names_in(path.parent_path()), Names{"model"});
}

TEST(AtomicDirectory, IsForgottenWithoutACommit) {
  const TemporaryDirectory directory;
  {
    AtomicDirectory output(directory / "out/");  // a trailing slash is no other name
    EXPECT_EQ(output.final_path(), directory / "out");
    std::filesystem::create_directories(output.path() / "a/b");
    test::write(output.path() / "a/b/c", "1");
  }
  EXPECT_TRUE(names_in(directory.path()).empty());
}

TEST(AtomicDirectory, AnExistingOneIsKeptUnlessAskedOtherwise) {
  const TemporaryDirectory directory;
  const auto path = directory / "out";
  AtomicDirectory late(path);
  test::write(late.path() / "new", "1");
  std::filesystem::create_directory(path);
  test::write(path / "old", "0");
  EXPECT_THAT(data_error([&] { AtomicDirectory(directory / "out"); }), HasSubstr(path.string() + ": already exists"));
  EXPECT_THAT(data_error([&] { late.commit(); }), HasSubstr("already exists"));
  EXPECT_EQ(names_in(path), Names{"old"});
  test::write(directory / "file", "");
  EXPECT_THAT(data_error([&] { AtomicDirectory(directory / "file"); }),
              HasSubstr("/file: is a file; expected a folder"));
}

TEST(AtomicDirectory, TakesOverAnEmptyDirectory) {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "out");
  AtomicDirectory output(directory / "out");
  test::write(output.path() / "a", "1");
  output.commit();
  EXPECT_EQ(names_in(directory / "out"), Names{"a"});
}

void replace_old_with_new(const TemporaryDirectory& directory) {
  std::filesystem::create_directory(directory / "out");
  test::write(directory / "out/old", "0");
  AtomicDirectory output(directory / "out", OnExisting::kReplace);
  test::write(output.path() / "new", "1");
  output.commit();
}

TEST(AtomicDirectory, ReplacesWhenAsked) {
  const TemporaryDirectory directory;
  replace_old_with_new(directory);
  EXPECT_EQ(names_in(directory / "out"), Names{"new"});
  EXPECT_EQ(names_in(directory.path()), Names{"out"});
}

TEST(AtomicDirectory, ReplacesOnFileSystemsWithoutAnExchange) {
  const TemporaryDirectory directory;
  const Injected fault(g_exchange_error, EINVAL);
  replace_old_with_new(directory);
  EXPECT_EQ(names_in(directory / "out"), Names{"new"});
  EXPECT_EQ(names_in(directory.path()), Names{"out"});
}

TEST(AtomicDirectory, AFailedReplacementKeepsTheOld) {
  const TemporaryDirectory directory;
  {
    const Injected fault(g_exchange_error, EIO);
    EXPECT_THAT(data_error([&] { replace_old_with_new(directory); }), HasSubstr("/out: cannot replace: Input/output"));
  }
  EXPECT_EQ(names_in(directory / "out"), Names{"old"});
  EXPECT_EQ(names_in(directory.path()), Names{"out"});
}

TEST(AtomicDirectory, AFailedSynchronisationKeepsTheOld) {
  const TemporaryDirectory directory;
  {
    AtomicDirectory output(directory / "out");
    test::write(output.path() / "a", "1");
    const Injected fault(g_fsync_error, EIO);
    EXPECT_THAT(data_error([&] { output.commit(); }), HasSubstr("(fsync): Input/output error"));
  }
  EXPECT_TRUE(names_in(directory.path()).empty());
}

TEST(AtomicDirectory, RefusesPathsWithoutAName) {
  for (const char* path : {"", ".", "..", "/", "a/..", "a/."})
    EXPECT_THAT(data_error([&] { AtomicDirectory{path}; }), HasSubstr("expected a path that ends in the name")) << path;
}

mode_t mode_of(const std::filesystem::path& path) {
  struct stat status = {};
  EXPECT_EQ(lstat(path.c_str(), &status), 0) << path;
  return status.st_mode;
}

TEST(AtomicFile, KeepsTheModeAndTheOwnerOfWhatItReplaces) {
  const TemporaryDirectory directory;
  const auto path = directory / "x";
  test::write(path, "old");
  ASSERT_EQ(chmod(path.c_str(), 0640), 0);
  const bool is_root = geteuid() == 0 && chown(path.c_str(), 65534, 65534) == 0;
  write_file_atomically(path, "new");
  EXPECT_EQ(mode_of(path), S_IFREG | 0640);
  struct stat status = {};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, is_root ? 65534U : geteuid());
  ASSERT_EQ(mkdir((directory / "out").c_str(), 0750), 0);
  AtomicDirectory(directory / "out").commit();
  EXPECT_EQ(mode_of(directory / "out"), S_IFDIR | 0750);
}

TEST(AtomicFile, WritesThroughLinksAndLeavesThemThere) {
  const TemporaryDirectory directory;
  std::filesystem::create_directories(directory / "there");
  test::write(directory / "there/old", "old");
  std::filesystem::create_symlink("there/old", directory / "to_old");
  std::filesystem::create_symlink("there/absent", directory / "to_absent");
  std::filesystem::create_symlink("to_old", directory / "twice");
  write_file_atomically(directory / "to_absent", "1");
  write_file_atomically(directory / "twice", "2");
  EXPECT_EQ(test::read(directory / "there/absent"), "1");
  EXPECT_EQ(test::read(directory / "there/old"), "2");
  EXPECT_EQ(names_in(directory.path()), (Names{"there", "to_old", "to_absent", "twice"}));
  EXPECT_EQ(names_in(directory / "there"), (Names{"old", "absent"}));
  EXPECT_EQ(mode_of(directory / "twice") & S_IFMT, mode_t{S_IFLNK});
  std::filesystem::create_symlink("loop", directory / "loop");
  EXPECT_THAT(data_error([&] { AtomicFile(directory / "loop"); }), HasSubstr("/loop: cannot follow: Too many levels"));
  EXPECT_THAT(data_error([&] { AtomicDirectory(directory / "loop"); }), HasSubstr("links form a loop"));
}

void write_through(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path, SpecialFile::kWriteThrough);
  file.write(text);
  file.commit();
}

TEST(AtomicFile, RefusesSpecialFilesThatNobodyChose) {
  const TemporaryDirectory directory;
  const auto pipe = directory / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::filesystem::create_symlink("pipe", directory / "link");
  for (const auto& path : {pipe, directory / "link", std::filesystem::path("/dev/null"), {"/dev/stdout"}})
    EXPECT_THAT(data_error([&] { write_file_atomically(path, "x"); }),
                AllOf(HasSubstr(path.string() + ": is a pipe, a device"), HasSubstr("expected a regular file")));
  EXPECT_EQ(names_in(directory.path()), (Names{"link", "pipe"}));
}

TEST(AtomicFile, WritesIntoPipesAndDevicesInsteadOfReplacingThem) {
  const TemporaryDirectory directory;
  const auto pipe = directory / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const std::string text(1 << 20, 'x');  // more than a pipe holds
  std::string found;
  std::thread reader([&] { found = test::read(pipe); });
  const Injected fault(g_fsync_error, EINVAL);
  write_through(pipe, text);
  reader.join();
  EXPECT_EQ(found, text);
  EXPECT_EQ(mode_of(pipe), S_IFIFO | 0600);
  EXPECT_EQ(names_in(directory.path()), Names{"pipe"});
  write_through("/dev/null", "x");
  EXPECT_TRUE(S_ISCHR(mode_of("/dev/null")));
  EXPECT_THAT(data_error([&] { write_through("/dev/full", "x"); }), HasSubstr("/dev/full: cannot write: No"));
  const sockaddr_un address = [&] {
    sockaddr_un a = {AF_UNIX, {}};
    (directory / "s").string().copy(a.sun_path, sizeof a.sun_path - 1);
    return a;
  }();
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_THAT(data_error([&] { write_through(directory / "s", "x"); }), HasSubstr("/s: is a socket"));
}

TEST(AtomicFile, WritesIntoOpenDescriptorsWhereTheyStand) {
  const TemporaryDirectory directory;
  test::write(directory / "log", "before, ");
  const UniqueFd fd(::open((directory / "log").c_str(), O_WRONLY | O_APPEND));
  write_through(fmt::format("/dev/fd/{}", fd.get()), "after");
  EXPECT_EQ(test::read(directory / "log"), "before, after");
  EXPECT_EQ(names_in(directory.path()), Names{"log"});
  EXPECT_THAT(data_error([&] { write_through("/dev/fd/9876", "x"); }),
              HasSubstr("/dev/fd/9876: cannot open for writing: Bad"));
}

TEST(AtomicDirectory, IsMadeWhereALinkLeads) {
  const TemporaryDirectory directory;
  std::filesystem::create_directories(directory / "disk/out");
  test::write(directory / "disk/out/old", "1");
  std::filesystem::create_symlink("disk/out/", directory / "out");
  EXPECT_THAT(data_error([&] { AtomicDirectory(directory / "out"); }), HasSubstr("/out: already exists"));
  AtomicDirectory output(directory / "out", OnExisting::kReplace);
  test::write(output.path() / "new", "2");
  output.commit();
  EXPECT_EQ(mode_of(directory / "out") & S_IFMT, mode_t{S_IFLNK});
  EXPECT_EQ(names_in(directory / "disk/out"), Names{"new"});
  EXPECT_EQ(names_in(directory / "disk"), Names{"out"});
}

TEST(MappedFile, GivesTheBytesOfTheFile) {
  const TemporaryDirectory directory;
  test::write(directory / "x", "some text");
  test::write(directory / "empty", "");
  const auto file = MappedFile::open(directory / "x");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()), "some text");
  EXPECT_TRUE(MappedFile::open(directory / "empty")->bytes().empty());
}

TEST(MappedFile, RefusesWhatCannotBeMapped) {
  const TemporaryDirectory directory;
  ASSERT_EQ(mkfifo((directory / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(data_error([&] { MappedFile::open(directory / "pipe"); }), HasSubstr("/pipe: is a named pipe; expected"));
  EXPECT_THAT(data_error([&] { MappedFile::open(directory.path()); }), HasSubstr("is a folder"));
  EXPECT_THAT(data_error([&] { MappedFile::open(directory / "none"); }),
              HasSubstr("/none: cannot open for reading: No"));
  std::filesystem::create_symlink("loop", directory / "loop");
  EXPECT_THAT(data_error([&] { MappedFile::open(directory / "loop"); }), HasSubstr("Symbolic links form a loop"));
}

}  // namespace
}  // namespace adept::io
