#include "adept/core/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "tests/support/captured_log.h"
#include "tests/support/reads.h"
#include "tests/support/temporary_directory.h"

namespace adept {
namespace {

using adept::test::Says;
using test::TemporaryDirectory;
using testing::HasSubstr;

template <typename Function>
std::string file_error(Function&& function) {
  try {
    function();
  } catch (const DataError& error) {
    return error.what();
  }
  return "(no DataError)";
}

TEST(OpenForReading, RefusesWhatIsNoRegularFileWithoutWaiting) {
  const TemporaryDirectory directory;
  ASSERT_EQ(mkfifo((directory / "pipe").c_str(), 0600), 0);
  const auto open = [](const std::filesystem::path& path) { return file_error([&] { open_for_reading(path); }); };
  EXPECT_THAT(open(directory / "pipe"), HasSubstr("/pipe: is a named pipe; expected a regular file."));
  EXPECT_THAT(open(directory.path()), HasSubstr(": is a folder; expected a regular file."));
  EXPECT_EQ(open("/dev/null"), "/dev/null: is a device; expected a regular file.");
  EXPECT_THAT(open(directory / "none"), HasSubstr("/none: cannot open for reading: No such file or directory. Check"));
}

TEST(OpenForReading, SaysWhereALinkLeadsToNothing) {
  const TemporaryDirectory directory;
  std::filesystem::create_symlink("../blobs/0a", directory / "config.json");
  EXPECT_TRUE(is_present(directory / "config.json"));
  EXPECT_FALSE(is_present(directory / "none"));
  EXPECT_THAT(file_error([&] { open_for_reading(directory / "config.json"); }),
              Says("/config.json: ...link to ../blobs/0a...not exist"));
}

TEST(OpenStream, WaitsForTheWriterOfAPipe) {
  const TemporaryDirectory directory;
  const auto pipe = directory / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::ofstream stream(pipe);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stream << "text";
  });
  EXPECT_EQ(read_all(open_stream(pipe), pipe, 100), "text");
  writer.join();
  EXPECT_EQ(read_all(open_stream("/dev/null"), "/dev/null", 100), "");
  EXPECT_GT(read_all(open_stream("/dev/zero"), "/dev/zero", 100).size(), 100U);
}

TEST(RemoveOrWarn, NamesWhatItCannotRemove) {
  const test::CapturedLog log;
  remove_or_warn("/proc/self/status");
  EXPECT_THAT(log.text(), HasSubstr("/proc/self/status: cannot be removed: "));
  remove_or_warn("/no/such/file");
  EXPECT_THAT(log.text(), testing::Not(HasSubstr("/no/such")));
}

}  // namespace
}  // namespace adept
