#include "adept/io/mapped_file.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

#include "adept/core/signals.h"
#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

TEST(MappedFileDeathTest, ThatBecomesShorterEndsTheProgramWithAMessage) {
  const test::TemporaryDirectory directory;
  const auto path = directory / "weights";
  test::write(path, std::string(1 << 20, 'x'));
  const auto read_after_truncation = [&] {
    install_signal_handlers();
    const auto file = MappedFile::open(path);
    std::filesystem::resize_file(path, 1);
    volatile std::byte last = file->bytes().back();
    static_cast<void>(last);
  };
  EXPECT_EXIT(read_after_truncation(), testing::ExitedWithCode(1), "a file was truncated while in use");
}

// Resident bytes of the mapping that `address` is in, from /proc/self/smaps.
std::int64_t resident_bytes(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    std::uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2)
      inside = begin <= reinterpret_cast<std::uintptr_t>(address) && reinterpret_cast<std::uintptr_t>(address) < end;
    if (inside && line.starts_with("Rss:")) return std::stoll(line.substr(4)) * 1024;
  }
  return -1;
}

TEST(ReleasePages, GivesMemoryBackAndKeepsTheBytes) {
  const test::TemporaryDirectory directory;
  std::string text(1 << 20, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i % 251);
  test::write(directory / "weights", text);
  const auto file = MappedFile::open(directory / "weights");
  const auto as_text = [&] {
    return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  };
  EXPECT_EQ(as_text(), text);
  ASSERT_EQ(resident_bytes(file->bytes().data()), 1 << 20);
  const std::int64_t page = ::sysconf(_SC_PAGESIZE);
  release_pages(file->bytes().subspan(100, static_cast<std::size_t>(10 * page)));
  EXPECT_EQ(resident_bytes(file->bytes().data()), (1 << 20) - 9 * page) << "the first and the last are in use";
  EXPECT_EQ(as_text(), text);
  release_pages(file->bytes().subspan(5, 10));
  release_pages({});
}

}  // namespace
}  // namespace adept::io
