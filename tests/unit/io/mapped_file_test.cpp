#include "adept/io/mapped_file.h"

#include <gmock/gmock.h>

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
  EXPECT_EXIT(read_after_truncation(), testing::ExitedWithCode(1), "a file that is being read became shorter");
}

}  // namespace
}  // namespace adept::io
