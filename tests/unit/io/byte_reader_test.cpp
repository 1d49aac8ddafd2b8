#include "adept/io/line_reader.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include <random>
#include <thread>

#include "tests/support/reads.h"
#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

using adept::test::Reads;
using adept::test::Says;

using test::data_error;
using test::TemporaryDirectory;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string gzip(std::string_view text) {
  z_stream stream = {};
  if (deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) throw std::bad_alloc();
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(std::string_view text, int window_log = 0) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  if (window_log > 0) ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  std::string out(ZSTD_compressBound(text.size()) + 64, '\0');
  // Without the size in the header, so that the window counts.
  ZSTD_inBuffer input = {text.data(), text.size(), 0};
  ZSTD_outBuffer output = {out.data(), out.size(), 0};
  while (ZSTD_compressStream2(context, &output, &input, ZSTD_e_end) != 0) {
  }
  ZSTD_freeCCtx(context);
  out.resize(output.pos);
  return out;
}
std::string skippable(std::string_view text) {
  std::string frame("\x5a\x2a\x4d\x18\0\0\0\0", 8);
  frame[4] = static_cast<char>(text.size());
  return frame + std::string(text);
}

std::vector<std::string> lines_of(const std::filesystem::path& path, std::int64_t limit = 1 << 20) {
  LineReader reader(path, limit);
  std::vector<std::string> lines;
  std::string line;
  while (reader.next(line)) {
    lines.push_back(line);
    EXPECT_EQ(reader.line_number(), static_cast<std::int64_t>(lines.size()));
  }
  EXPECT_FALSE(reader.next(line)) << "the end stays the end";
  return lines;
}

// Text that is long enough for several buffers, with lines of many lengths.
std::string long_text() {
  std::mt19937 random(5);
  std::string text;
  while (text.size() < (3U << 20)) text += std::string(random() % 3000, static_cast<char>('a' + random() % 26)) + "\n";
  return text;
}

TEST(LineReader, EndsLinesAtNewlinesAndDropsOneCarriageReturn) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.txt";
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"", {}},
      {"\n", {""}},
      {"a", {"a"}},
      {"a\n", {"a"}},
      {"a\n\nb", {"a", "", "b"}},
      {"a\r\nb\r\n", {"a", "b"}},
      {"a\r\r\nb", {"a\r", "b"}},
      {"a\rb\n", {"a\rb"}},
      {"a\r", {"a\r"}},
      {"\r\n", {""}},
      {std::string("a\0b\n\0", 5), {std::string("a\0b", 3), std::string("\0", 1)}},
      {"\xef\xbb\xbf"
       "a\n\xef\xbb\xbf"
       "b",
       {"a",
        "\xef\xbb\xbf"
        "b"}},
      {"\xef\xbb\xbf", {}},
      {"\xef\xbb", {"\xef\xbb"}},
  };
  for (const auto& [text, expected] : cases) {
    test::write(path, text);
    EXPECT_EQ(lines_of(path), expected) << testing::PrintToString(text);
    test::write(path, gzip(text));
    EXPECT_EQ(lines_of(path), expected) << "gzip: " << testing::PrintToString(text);
    test::write(path, zstd(text));
    EXPECT_EQ(lines_of(path), expected) << "zstd: " << testing::PrintToString(text);
  }
}

TEST(LineReader, EndsLinesAtReturnsWhereThereAreNoNewlines) {
  const TemporaryDirectory directory;
  const std::string longer(256 << 10, 'x');
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"a\rb", {"a", "b"}},
      {"a\r\rb\r", {"a", "", "b"}},
      {"\xef\xbb\xbf"
       "a\rb\n",
       {"a\rb"}},
      {"a\r\nb\rc", {"a", "b\rc"}},
      {longer.substr(1) + "\r\nb\r\n", {longer.substr(1), "b"}},
      {longer + "\rb\nc", {longer + "\rb", "c"}},
      {"a\r" + longer + "b\rc", {"a", longer + "b", "c"}},
      {"ab", {"ab"}},
      {"", {}},
  };
  for (const auto& [text, expected] : cases) {
    test::write(directory / "x", text);
    LineReader reader(directory / "x", 1 << 20, LineEnd::kNewlineOrReturn);
    std::vector<std::string> lines;
    for (std::string line; reader.next(line);) lines.push_back(line);
    EXPECT_TRUE(lines == expected) << testing::PrintToString(text.substr(0, 20));
    EXPECT_EQ(reader.line_number(), std::ssize(expected));
  }
}

TEST(LineReader, LinesAcrossBuffersAreWhole) {
  const TemporaryDirectory directory;
  const std::string text = long_text();
  test::write(directory / "x", text);
  test::write(directory / "x.gz", gzip(text));
  for (const char* name : {"x", "x.gz"}) {
    std::string joined;
    for (const std::string& line : lines_of(directory / name)) joined += line + "\n";
    EXPECT_TRUE(joined == text) << name;
  }
  // A "\r\n" at every place around the end of a buffer.
  for (std::size_t size = (256 << 10) - 3; size <= (256 << 10) + 2; ++size) {
    test::write(directory / "y", std::string(size, 'x') + "\r\nb");
    EXPECT_EQ(lines_of(directory / "y"), (std::vector<std::string>{std::string(size, 'x'), "b"})) << size;
  }
}

TEST(LineReader, LongLinesAreReportedAndCanBeSkipped) {
  const TemporaryDirectory directory;
  const auto path = directory / "x";
  const std::string five_megabytes(5 << 20, 'x');
  test::write(path, "12345\n123456\n12345\r\n" + five_megabytes + "\nok\n1234567");
  LineReader reader(path, 5);
  std::string line;
  std::vector<std::string> lines, errors;
  for (;;) {
    try {
      if (!reader.next(line)) break;
      lines.push_back(line);
    } catch (const LineTooLongError& error) {
      errors.emplace_back(error.what());
      EXPECT_LT(line.capacity(), 1U << 20);
    }
  }
  EXPECT_THAT(lines, ElementsAre("12345", "12345", "ok"));
  EXPECT_THAT(errors, ElementsAre(path.string() + ":2: the line is longer than 5 bytes; split it, or raise the limit.",
                                  HasSubstr(path.string() + ":4: "), HasSubstr(path.string() + ":6: ")));
}

TEST(LineReader, ALineOfExactlyTheLimitAtTheEndOfABufferIsRead) {
  const TemporaryDirectory directory;
  for (std::int64_t limit = (256 << 10) - 2; limit <= (256 << 10) + 1; ++limit) {
    const std::string line(static_cast<std::size_t>(limit), 'x');
    test::write(directory / "x", line + "\r\n" + line + "\n" + line);
    EXPECT_EQ(lines_of(directory / "x", limit), (std::vector<std::string>{line, line, line})) << limit;
  }
}

TEST(ByteReader, SeveralMembersAreOneStream) {
  const TemporaryDirectory directory;
  const std::string text = long_text();
  std::string members = gzip("");
  for (std::size_t i = 0; i < text.size(); i += 100'000) members += gzip(std::string_view(text).substr(i, 100'000));
  test::write(directory / "x.gz", members + gzip(""));
  EXPECT_TRUE(read_text_file(directory / "x.gz") == text);
  test::write(directory / "x.gz", members + std::string(1000, '\0'));
  EXPECT_TRUE(read_text_file(directory / "x.gz") == text) << "zeros may follow";
}

struct Compression {
  const char* name;
  const char* extension;
  std::string (*compress)(std::string_view text);
  std::size_t least;       ///< bytes that a second member has to be told from other data
  std::size_t header;      ///< bytes that may change without the text; what follows is checked
  std::size_t check_size;  ///< bytes at the end: the checksum, and gzip's length
  std::vector<std::string> garbage;
};

class Compressed : public testing::TestWithParam<Compression> {
 protected:
  std::string path(const std::string& name = "x") const { return directory_ / (name + GetParam().extension); }
  std::string error_with(std::string_view contents) const {
    test::write(path(), contents);
    return data_error([&] { read_text_file(path()); });
  }
  static std::string compress(std::string_view text) { return GetParam().compress(text); }

  const TemporaryDirectory directory_;
  const std::string text_ = "some text that is compressed, and repeated: some text that is compressed";
};

INSTANTIATE_TEST_SUITE_P(
    ByteReader, Compressed,
    testing::Values(Compression{"gzip", ".gz", gzip, 2, 10, 8, {"x", "\x1f", std::string("\0x", 2), "\x1fz"}},
                    Compression{
                        "zstd", ".zst", [](std::string_view text) { return zstd(text); }, 1, 4, 4, {"more text"}}),
    [](const auto& instance) { return std::string(instance.param.name); });

TEST_P(Compressed, IsKnownByItsContentsNotItsName) {
  test::write(directory_ / "x.txt", compress("text"));
  EXPECT_EQ(read_text_file(directory_ / "x.txt"), "text");
  const auto [name, extension] = std::pair(GetParam().name, GetParam().extension);
  EXPECT_THAT(error_with("text"), Reads(fmt::format(".../x{}: ...not ...{} data...{}...", extension, name, extension)));
  EXPECT_THAT(error_with(""), Says(fmt::format("/x{}: is empty; expected {}", extension, name)));
}

TEST_P(Compressed, EveryTruncationIsReported) {
  const std::string whole = compress(text_);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_THAT(error_with(whole.substr(0, size)), HasSubstr(path() + ": ")) << size;
    if (size >= GetParam().least) {
      EXPECT_THAT(error_with(whole + whole.substr(0, size)), HasSubstr("The file is cut short")) << "second " << size;
    }
  }
}

TEST_P(Compressed, EveryFlippedBitIsReportedOrHarmless) {
  const std::string whole = compress(text_), file = directory_ / "x.txt";
  for (std::size_t bit = 8 * GetParam().header; bit < 8 * whole.size(); ++bit) {
    std::string changed = whole;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
    test::write(file, changed);
    std::string found;
    const std::string message = data_error([&] { found = read_text_file(file); });
    EXPECT_TRUE(found == text_ || message.find(file) != std::string::npos) << bit << " " << message;
    if (bit >= 8 * (whole.size() - GetParam().check_size)) {
      EXPECT_THAT(message, HasSubstr("/x.txt: ")) << "checksum and length";
    }
  }
}

TEST_P(Compressed, GarbageAfterItIsReported) {
  for (const std::string& garbage : GetParam().garbage)
    EXPECT_THAT(error_with(compress("text") + garbage),
                Says(fmt::format("other data after the {} data", GetParam().name)));
}

TEST_P(Compressed, GrowsNoMoreThanTextDoes) {
  EXPECT_THAT(error_with(compress(std::string(100 << 20, '\0'))),
              Says(fmt::format("/x{}: ...{} data ...256 times", GetParam().extension, GetParam().name)));
  EXPECT_THAT(data_error([&] { lines_of(path(), 1 << 30); }), HasSubstr("256 times"));
  test::write(path("short"), compress(std::string(1 << 20, 'a')));
  EXPECT_EQ(read_text_file(path("short")).size(), 1u << 20);
}

TEST(ByteReader, RefusesOtherCompressions) {
  const TemporaryDirectory directory;
  const std::vector<std::pair<std::string, std::string>> cases = {{std::string("\xfd"
                                                                               "7zXZ\0\0",
                                                                               7),
                                                                   "xz"},
                                                                  {"BZh91AY&SY...", "bzip2"},
                                                                  {"PK\x03\x04...", "zip"}};
  for (const auto& [start, name] : cases) {
    test::write(directory / "x.txt", start);
    EXPECT_THAT(data_error([&] { ByteReader(directory / "x.txt"); }),
                Reads(".../x.txt: is compressed with " + name + "...expected gzip, zstd or plain text..."));
  }
  test::write(directory / "x.txt", "BZh is how this text starts");
  EXPECT_EQ(read_text_file(directory / "x.txt"), "BZh is how this text starts");
}

TEST(ByteReader, FramesOfZstdAreOneStream) {
  const TemporaryDirectory directory;
  const std::string text = long_text();
  std::string frames = skippable("index") + zstd("");
  for (std::size_t i = 0; i < text.size(); i += 100'000)
    frames += zstd(std::string_view(text).substr(i, 100'000)) + skippable("between");
  test::write(directory / "x", frames);
  EXPECT_TRUE(read_text_file(directory / "x") == text) << "whatever its name";
}

TEST(ByteReader, RefusesZstdWithAWindowThatAsksForTooMuch) {
  const TemporaryDirectory directory;
  std::string wide = zstd(long_text());
  ASSERT_EQ(wide[4] & 0x20, 0) << "a window follows";
  wide[5] = static_cast<char>(18 << 3);  // 2^28 bytes
  test::write(directory / "x.zst", wide);
  EXPECT_THAT(data_error([&] { read_text_file(directory / "x.zst"); }),
              Reads(".../x.zst: ...window of more than 128 MiB...zstd -d..."));
}

TEST(ByteReader, ReadsAPipeThatDeliversByteByByte) {
  const TemporaryDirectory directory;
  const auto path = directory / "pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const std::string lines = "\xef\xbb\xbfline one\nline two";
  for (const std::string& contents : {lines, gzip(lines), zstd(lines)}) {
    std::thread writer([&] {
      std::ofstream stream(path, std::ios::binary);
      for (const char c : contents) stream.put(c).flush();
    });
    EXPECT_THAT(lines_of(path), ElementsAre("line one", "line two"));
    writer.join();
  }
}

TEST(ByteReader, RefusesWhatCannotBeRead) {
  const TemporaryDirectory directory;
  EXPECT_THAT(data_error([&] { ByteReader(directory / "none"); }),
              AllOf(HasSubstr("/none: "), HasSubstr("No such file")));
  EXPECT_THAT(data_error([&] { ByteReader(directory.path()); }), HasSubstr("is a folder; expected a file"));
}

TEST(ReadTextFile, IsBounded) {
  const TemporaryDirectory directory;
  test::write(directory / "x", "12345");
  EXPECT_EQ(read_text_file(directory / "x", 5), "12345");
  EXPECT_THAT(data_error([&] { read_text_file(directory / "x", 4); }),
              HasSubstr("/x: the text is longer than 4 bytes"));
  test::write(directory / "x",
              "\xef\xbb\xbf"
              "12345");
  EXPECT_EQ(read_text_file(directory / "x", 5), "12345");
  EXPECT_THAT(data_error([&] { read_text_file(directory / "x", 4); }), HasSubstr("longer than 4 bytes"));
  test::write(directory / "bomb.gz", gzip(std::string(64 << 20, '\0')));
  EXPECT_THAT(data_error([&] { read_text_file(directory / "bomb.gz", 1 << 20); }),
              HasSubstr("longer than 1048576 bytes"));
  EXPECT_THAT(data_error([&] { lines_of(directory / "bomb.gz", 1 << 20); }),
              HasSubstr("bomb.gz:1: the line is longer"));
}

}  // namespace
}  // namespace adept::io
