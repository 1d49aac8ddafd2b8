#include "adept/data/text_source.h"

#include <gmock/gmock.h>

#include <chrono>
#include <map>

#include "adept/core/error.h"
#include "adept/data/utf8.h"
#include "data_test_util.h"

namespace adept::data {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;
namespace fs = std::filesystem;

TextSource txt_source(const std::string& path, TxtRecord record) {
  return {.name = "s", .paths = {path}, .txt_record = record};
}
TextSource skipping(const std::string& path) {
  return {.name = "s", .paths = {path}, .on_bad_record = BadRecord::kSkip};
}

TEST(TextSource, ReadsAWholeTextFileAsOneDocument) {
  const TemporaryFolder folder;
  const std::string text = "one\r\n\n two\twith NUL \0 and caf\u00e9\n";
  SourceCounts counts;
  EXPECT_THAT(read_all(source_at({folder.write("a.txt", text)}), &counts), ElementsAre(text));
  EXPECT_EQ(counts.files, 1);
  EXPECT_EQ(counts.documents, 1);
  EXPECT_EQ(counts.bytes, static_cast<std::int64_t>(text.size()));
  EXPECT_THAT(counts.skipped, IsEmpty());
}

TEST(TextSource, ReadsGzippedFilesAsPlainOnes) {
  const TemporaryFolder folder;
  EXPECT_THAT(
      read_all(source_at({folder.write("a.txt.gz", "one\ntwo\n"), folder.write("b.JSONL.GZ", "{\"text\":\"x\"}"),
                          folder.write("c.jsonl.gz", "{\"text\":\"y\"}\n{\"text\":\"z\"}\n")})),
      ElementsAre("one\ntwo\n", "x", "y", "z"));
}

TEST(TextSource, SkipsAByteOrderMark) {
  const TemporaryFolder folder;
  EXPECT_THAT(read_all(source_at({folder.write("a.txt", "\xEF\xBB\xBFone"),
                                  folder.write("b.jsonl", "\xEF\xBB\xBF{\"text\":\"two\"}\r\n")})),
              ElementsAre("one", "two"));
}

TEST(TextSource, ReadsLinesAndCountsBlankOnes) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.txt", "one\r\n\n  two \n \t\nthree");
  SourceCounts counts;
  EXPECT_THAT(read_all(txt_source(path, TxtRecord::kLine), &counts), ElementsAre("one", "  two ", "three"));
  EXPECT_THAT(counts.skipped, ElementsAre(Pair("blank line", 2)));
}

TEST(TextSource, ReadsParagraphs) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.txt", "\n\none\ntwo \n\n \t\r\nthree\r\nfour\n\n");
  SourceCounts counts;
  EXPECT_THAT(read_all(txt_source(path, TxtRecord::kParagraph), &counts), ElementsAre("one\ntwo ", "three\nfour"));
  EXPECT_EQ(counts.documents, 2);
  EXPECT_THAT(counts.skipped, IsEmpty());
}

TEST(TextSource, ReadsTheFieldThatIsNamed) {
  const TemporaryFolder folder;
  TextSource source = source_at({folder.write(
      "a.jsonl",
      R"({"id": [1, {"answer": "no"}], "answer": "caf\u00e9 \ud83d\ude00 \"q\"\n", "text": 3, "x": {"answer": 1}})"
      "\n")});
  source.text_field = "answer";
  EXPECT_THAT(read_all(source), ElementsAre("caf\u00e9 \U0001F600 \"q\"\n"));
}

TEST(TextSource, CountsBlankLinesAndEmptyTexts) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", "{\"text\":\"a\"}\n\n   \n{\"text\":\"\"}\n{\"text\":\" \"}\n");
  SourceCounts counts;
  EXPECT_THAT(read_all(source_at({path, folder.write("empty.txt", "")}), &counts), ElementsAre("a", " "));
  EXPECT_THAT(counts.skipped, ElementsAre(Pair("blank line", 2), Pair("empty text", 2)));
  EXPECT_EQ(counts.files, 2);
}

struct BadLine {
  const char* line;
  const char* reason;
  const char* found;
};

const BadLine kBadLines[] = {
    {R"({"text": "cut)", "invalid JSON", "without a closing quote"},
    {R"({"text": "a"} x)", "invalid JSON", "expected end of input"},
    {R"({"text": "\ud800"})", "invalid JSON", "surrogate"},
    {R"({"text": "a", "n": 1e999})", "invalid JSON", "number"},
    {R"({"question": "q", "answer": "a"})", "missing field", "the keys \"question\", \"answer\""},
    {R"({"question": "q", "choices": ["a", "b"], "answer": "C"})", "unreadable question", "not among its 2 choices"},
    {"{}", "missing field", "a record without keys"},
    {R"({"text": null})", "null field", "null"},
    {R"({"text": 3})", "field not a string", "a number"},
    {R"({"text": ["a"]})", "field not a string", "an array"},
    {R"({"text": {"text": "a"}})", "field not a string", "an object"},
    {R"({"text": "a", "text": "b"})", "repeated field", "2 times"},
    {R"(["a"])", "not an object", "an array"},
    {R"("a")", "not an object", "a string"},
    {"7", "not an object", "a number"},
    {"{\"text\": \"caf\xE9\"}", "invalid UTF-8", "invalid UTF-8 after"},
    {"{\"text\": \"\xED\xA0\x80\"}", "invalid UTF-8", "invalid UTF-8 after"},
};

TEST(TextSource, EveryByteOfARecordCounts) {
  const std::string good = R"({"text": "a"})";
  for (const std::string& line : {good + std::string(1, '\0'),
                                  good + std::string("\0{\"text\": \"b\"}", 15),
                                  std::string(1, '\0') + good,
                                  good + good,
                                  good + " " + good,
                                  good + ",",
                                  good + "]",
                                  good + "}",
                                  good + " null",
                                  "\xef\xbb\xbf" + good,
                                  good + "\xe2\x80\xa8",
                                  good + "\xc2\x85",
                                  "\xc2\xa0" + good,
                                  good + "\v",
                                  "[" + good + "]",
                                  std::string("{\"text\": \"a\0\"}", 15),
                                  std::string("{\"text\": \"a\tb\"}"),
                                  std::string("{'text': 'a'}"),
                                  std::string("{\"text\": \"a\",}"),
                                  std::string("{\"text\": \"a\" \"b\": 1}"),
                                  std::string("{text: \"a\"}"),
                                  std::string(R"({"text": "a", "n": 01})"),
                                  std::string(R"({"text": "a", "n": .5})"),
                                  std::string(R"({"text": "a", "n": 1.})"),
                                  std::string(R"({"text": "a", "n": +1})"),
                                  std::string(R"({"text": "a", "n": NaN})"),
                                  std::string(R"({"text": "a", "n": tru})"),
                                  std::string(R"({"text": "\x"})"),
                                  std::string(R"({"text": "\u12g4"})"),
                                  std::string(R"({"text": "\udc00"})"),
                                  std::string(R"({"text": "\ud800\u0041"})"),
                                  std::string("/* */ {}"),
                                  std::string("{\"text\"}")}) {
    const TemporaryFolder folder;
    const auto path = folder.write("a.jsonl", "{\"text\": \"first\"}\n" + line + "\n");
    const std::string message = message_of<DataError>([&] { read_all(source_at({path})); });
    EXPECT_THAT(message, AllOf(HasSubstr(path + ":2: "), Not(HasSubstr("exception")))) << testing::PrintToString(line);
    EXPECT_FALSE(find_invalid_utf8(message));
    EXPECT_THAT(read_all(skipping(path)), ElementsAre("first")) << testing::PrintToString(line);
  }
}

TEST(TextSource, ReadsWhatJsonAllows) {
  const TemporaryFolder folder;
  const auto path =
      folder.write("a.jsonl",
                   " \t{ \"n\" : -0.5e-3 , \"text\" : \"a\\/\\b\\f\\u20AC\\ud83d\\uDE00\" , \"x\": [ ] } \t\r\n"
                   "{\"text\": \"b\xe2\x80\xa8\\u0000c\", \"e\": 1E+2, \"z\": {\"text\": [true, false, null]}}\n");
  EXPECT_THAT(read_all(source_at({path})), ElementsAre("a/\b\f\u20ac\U0001F600", std::string("b\xe2\x80\xa8\0c", 6)));
}

TEST(TextSource, FindsTheEndOfAStringWhereverItIs) {
  const TemporaryFolder folder;
  for (std::size_t size = 0; size < 40; ++size)
    for (const char* filler : {"a", "\u00e9", "!", "#", "\U0010FFFF", "\x7f"}) {
      std::string text;
      while (text.size() < size) text += filler;
      const auto path =
          folder.write("a.jsonl", "{\"text\":\"" + text + "\",\"x\":1}\n{\"text\":\"" + text + "\\n" + text + "\"}\n");
      SourceCounts counts;
      std::vector<std::string> expected = {text, text + "\n" + text};
      if (text.empty()) expected.erase(expected.begin());
      EXPECT_EQ(read_all(source_at({path}), &counts), expected) << size << filler;
      EXPECT_EQ(read_all(source_at({folder.write("a.json", "[{\"text\":\"" + text + "]\\\"x\"}]")})),
                std::vector<std::string>{text + "]\"x"});
      const auto bad = folder.write("b.jsonl", "{\"text\":\"" + text + "\x1f\"}\n");
      EXPECT_THAT(message_of<DataError>([&] { read_all(source_at({bad})); }), HasSubstr("control character"));
    }
}

TEST(TextSource, ReadsRecordsOfManyKeysInLinearTime) {
  const TemporaryFolder folder;
  std::string keys;
  for (int i = 0; i < 200'000; ++i) keys += "\"k" + std::to_string(i) + "\": 1, ";
  const auto path = folder.write("a.jsonl", "{" + keys + "\"text\": \"a\"}\n{" + keys + "\"question\": \"q\"}\n");
  SourceCounts counts;
  EXPECT_THAT(read_all(skipping(path), &counts), ElementsAre("a"));
  EXPECT_THAT(counts.skipped, ElementsAre(Pair("missing field", 1)));
}

TEST(TextSource, SaysHowToNameTheField) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", R"({"body": "a", "id": 1})");
  EXPECT_THAT(message_of<DataError>([&] { read_all(source_at({path})); }),
              AllOf(HasSubstr("found the keys \"body\", \"id\""), HasSubstr("the text in \"text\""),
                    HasSubstr("--text-field"), HasSubstr("text_field of the source")));
}

TEST(TextSource, NamesTextInAnotherEncoding) {
  using namespace std::string_literals;
  const TemporaryFolder folder;
  const std::pair<std::string, const char*> texts[] = {
      {"\xff\xfeh\0i\0"s, "UTF-16"},        {"\xfe\xff\0h\0i"s, "UTF-16"},      {"w\0i\0t\0h\0o\0u\0t\0"s, "UTF-16"},
      {"\0w\0i\0t\0h\0o\0u\0t"s, "UTF-16"}, {"\xff\xfe\0\0h\0\0\0"s, "UTF-32"}, {"\0\0\xfe\xff\0\0\0h"s, "UTF-32"}};
  for (const auto& [text, name] : texts)
    for (const char* file : {"a.txt", "a.jsonl", "a.txt.gz"}) {
      const auto path = folder.write(file, text);
      for (const TextSource& source : {source_at({path}), skipping(path), txt_source(path, TxtRecord::kLine)})
        EXPECT_THAT(message_of<DataError>([&] { read_all(source); }),
                    AllOf(HasSubstr(path + ": found " + name + " text"), HasSubstr("iconv -f " + std::string(name))));
    }
  EXPECT_THAT(read_all(source_at({folder.write("zeros.txt", std::string(64, '\0'))})), testing::SizeIs(1));
}

TEST(TextSource, RefusesABadRecordWithItsPlace) {
  for (const BadLine& bad : kBadLines) {
    const TemporaryFolder folder;
    const auto path = folder.write("a.jsonl", "{\"text\":\"a\"}\n\n" + std::string(bad.line) + "\n");
    const auto message = message_of<DataError>([&] { read_all(source_at({path})); });
    EXPECT_THAT(message, AllOf(HasSubstr(path + ":3: "), HasSubstr(bad.reason), HasSubstr(bad.found),
                               HasSubstr("expected"), HasSubstr("on_bad_record")))
        << bad.line;
    EXPECT_FALSE(find_invalid_utf8(message)) << "the message itself is text";
  }
}

TEST(TextSource, SkipsAndCountsBadRecordsWhereItShould) {
  const TemporaryFolder folder;
  std::string lines;
  std::map<std::string, std::int64_t> expected;
  for (const BadLine& bad : kBadLines) {
    lines += std::string(bad.line) + "\n{\"text\":\"good\"}\n";
    ++expected[bad.reason];
  }
  SourceCounts counts;
  const auto texts = read_all(skipping(folder.write("a.jsonl", lines)), &counts);
  EXPECT_EQ(texts, std::vector<std::string>(std::size(kBadLines), "good"));
  EXPECT_EQ(counts.skipped, expected);
}

TEST(TextSource, RefusesDeepNestingWithoutHarm) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", "{\"x\":" + std::string(3'000'000, '['));
  EXPECT_THAT(message_of<DataError>([&] { read_all(source_at({path})); }), HasSubstr("nesting beyond 256 levels"));
}

TEST(TextSource, KeepsMessagesShort) {
  const TemporaryFolder folder;
  const std::string huge(1'000'000, 'k');
  const auto path = folder.write("a.jsonl", "{\"" + huge + "\": \"" + huge + "\"}\n");
  EXPECT_LT(message_of<DataError>([&] { read_all(source_at({path})); }).size(), 1000u);
  const auto cut = folder.write("b.jsonl", "{\"text\": \"" + huge);
  EXPECT_LT(message_of<DataError>([&] { read_all(source_at({cut})); }).size(), 1000u);
}

TEST(TextSource, NamesTheLineOfInvalidUtf8) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.txt", "one\ntwo\n\nthree\nfo\xFFur\n");
  for (const TxtRecord record : {TxtRecord::kFile, TxtRecord::kLine, TxtRecord::kParagraph})
    EXPECT_THAT(message_of<DataError>([&] { read_all(txt_source(path, record)); }),
                AllOf(HasSubstr(path + ":5: "), HasSubstr("invalid UTF-8")));
  SourceCounts counts;
  EXPECT_THAT(read_all(skipping(path), &counts), IsEmpty());
  EXPECT_THAT(counts.skipped, ElementsAre(Pair("invalid UTF-8", 1)));
}

TEST(TextSource, RefusesAGzipFileThatIsCutShort) {
  const TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 5000; ++i) lines += "{\"text\":\"line " + std::to_string(i * 7919) + "\"}\n";
  const auto path = folder.write("a.jsonl.gz", lines);
  fs::resize_file(path, fs::file_size(path) / 2);
  for (const TextSource& source : {source_at({path}), skipping(path)})
    EXPECT_THAT(message_of<DataError>([&] { read_all(source); }), HasSubstr(path));
}

TEST(TextSource, TellsWhereADocumentIs) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", "\n{\"text\":\"x\"}\n{\"text\":\"y\"}\n");
  const auto whole = folder.write("b.txt", "z");
  DocumentReader reader(source_at({path, whole}));
  std::string text;
  ASSERT_TRUE(reader.next(text));
  EXPECT_EQ(reader.position(), path + ":2");
  ASSERT_TRUE(reader.next(text));
  EXPECT_EQ(reader.position(), path + ":3");
  ASSERT_TRUE(reader.next(text));
  EXPECT_EQ(reader.position(), whole);
  EXPECT_FALSE(reader.next(text));
  EXPECT_FALSE(reader.next(text)) << "it stays at the end";
  EXPECT_EQ(reader.file_bytes_read(), reader.file_bytes_total());
}

TEST(DocumentReader, GoesOnAtAPlaceOfAnEarlierReader) {
  const TemporaryFolder folder;
  TextSource source = source_at({folder.write("a.jsonl", "{\"text\":\"1\"}\nbad\n\n{\"text\":\"2\"}\n"),
                                 folder.write("b.txt", "3"), folder.write("c.jsonl", "bad\n{\"text\":\"4\"}\nbad\n")});
  source.on_bad_record = BadRecord::kSkip;
  DocumentReader whole(source);
  whole.hash_contents();
  std::vector<Json> places;
  std::string text;
  while (whole.next(text)) places.push_back(whole.place().to_json());
  ASSERT_EQ(places.size(), 4u);
  for (std::size_t i = 0; i < places.size(); ++i) {
    DocumentReader reader(source);
    reader.hash_contents();
    reader.go_to(Json::parse(places[i].dump()));
    EXPECT_EQ(reader.counts().documents, static_cast<std::int64_t>(i) + 1);
    for (std::size_t next = i + 1; next < places.size(); ++next) {
      ASSERT_TRUE(reader.next(text));
      EXPECT_EQ(text, std::to_string(next + 1));
    }
    EXPECT_FALSE(reader.next(text));
    EXPECT_EQ(reader.counts(), whole.counts());
    EXPECT_EQ(reader.skipped(), whole.skipped());
    EXPECT_EQ(reader.hash_of_contents(), content_hash(source));
    EXPECT_EQ(reader.file_bytes_read(), whole.file_bytes_read());
  }
}

TEST(DocumentReader, RefusesAPlaceThatTheFilesDoNotHave) {
  const TemporaryFolder folder;
  const TextSource source = source_at({folder.write("a.txt", "1"), folder.write("b.txt", "2")});
  DocumentReader first(source);
  std::string text;
  ASSERT_TRUE(first.next(text));
  const Json good = first.place().to_json();
  const auto problem = [&](const char* key, const Json& value) {
    Json place = good;
    place[key] = value;
    DocumentReader reader(source);
    const std::string message = message_of<DataError>([&] { reader.go_to(place); });
    EXPECT_THAT(message, HasSubstr("source \"s\": "));
    return message;
  };
  EXPECT_THAT(problem("file", 2), HasSubstr("it has 2 files, not more than 2"));
  EXPECT_THAT(problem("documents", 2), HasSubstr(folder / "a.txt has fewer than 2 documents"));
  EXPECT_THAT(problem("documents", "x"), HasSubstr("its place cannot be read"));
}

TEST(TextSource, FingerprintFollowsContentAndOptionsNotNames) {
  const TemporaryFolder folder;
  const auto time = fs::file_time_type::clock::now();
  const auto write = [&](const char* name, const std::string& text) {
    const std::string path = folder.write(name, text);
    fs::last_write_time(path, time);
    return path;
  };
  const auto a = write("a.txt", "one"), b = write("b.txt", "two"), c = write("c.txt", "one");
  const auto base = source_fingerprint(source_at({a, b}));
  EXPECT_EQ(source_fingerprint({.name = "other", .paths = {c, b}}), base);
  EXPECT_NE(source_fingerprint(source_at({b, a})), base) << "another order";
  EXPECT_NE(source_fingerprint(source_at({a})), base);
  EXPECT_NE(source_fingerprint(source_at({write("ab.txt", "onetwo")})), base) << "other documents";
  EXPECT_NE(source_fingerprint(source_at({write("ab.txt", "onekind 0\ntwo")})), base) << "other documents";
  EXPECT_NE(source_fingerprint({.name = "s", .paths = {a, b}, .txt_record = TxtRecord::kLine}), base);
  write("b.txt", "twO");
  EXPECT_NE(source_fingerprint(source_at({a, b})), base);
  write("b.txt", "two");
  EXPECT_EQ(source_fingerprint(source_at({a, b})), base);
  EXPECT_EQ(content_hash(source_at({c, b})), content_hash(source_at({a, b})));
  fs::last_write_time(b, time + std::chrono::nanoseconds(1));
  EXPECT_NE(source_fingerprint(source_at({a, b})), base) << "it may have been written to";
  EXPECT_EQ(content_hash(source_at({c, b})), content_hash(source_at({a, b}))) << "which reads all";
}

TEST(TextSource, FingerprintOfALargeFileSamplesItsBytes) {
  const TemporaryFolder folder;
  std::string text(std::size_t{1} << 20, 'a');
  const auto time = fs::file_time_type::clock::now();
  const auto fingerprint = [&] {
    const auto path = folder.write("a.txt", text);
    fs::last_write_time(path, time);
    return std::pair(source_fingerprint(source_at({path})), content_hash(source_at({path})));
  };
  const auto base = fingerprint();
  for (const std::size_t at : {std::size_t{0}, text.size() - 1, std::size_t{4095}}) {
    text[at] = 'b';
    EXPECT_NE(fingerprint().first, base.first) << at;
    text[at] = 'a';
  }
  text[5000] = 'b';  // between two samples: only the time would tell
  EXPECT_EQ(fingerprint().first, base.first);
  EXPECT_NE(fingerprint().second, base.second);
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_FALSE(find_invalid_utf8(""));
  EXPECT_FALSE(find_invalid_utf8("plain ascii of more than eight bytes, caf\u00e9 \u4e2d \U0001F600 and more ascii"));
  EXPECT_FALSE(find_invalid_utf8("\U0010FFFF\uFFFF"));
  EXPECT_EQ(find_invalid_utf8("01234567\x80"), 8u);
  for (std::size_t at = 0; at < 24; ++at) {
    std::string text(24, 'x');
    text[at] = '\x80';
    EXPECT_EQ(find_invalid_utf8(text), at);
  }
  EXPECT_EQ(find_invalid_utf8("abc\xC3"), 3u) << "cut";
  EXPECT_EQ(find_invalid_utf8("\xC0\xAF"), 0u) << "overlong";
  EXPECT_EQ(find_invalid_utf8("a\xE0\x80\x80"), 1u) << "overlong";
  EXPECT_EQ(find_invalid_utf8("ab\xED\xA0\x80"), 2u) << "a surrogate";
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u) << "above U+10FFFF";
  EXPECT_EQ(find_invalid_utf8("\xFF"), 0u);
}

TEST(SourceTable, ShowsCountsAndReasons) {
  SourceCounts counts{.files = 2, .documents = 14'588, .bytes = 19'100'000, .tokens = 4'512'345};
  counts.skipped = {{"empty text", 1200}, {"invalid JSON", 1}};
  counts.ignored = {{"file with extension .md", 3}};
  const std::vector<NamedCounts> rows = {{"medquad", counts}, {"general", SourceCounts{}}};
  const std::string table = format_source_table(rows);
  EXPECT_THAT(table,
              AllOf(HasSubstr("source   files  documents     tokens    bytes  skipped\n"),
                    HasSubstr("medquad      2     14,588  4,512,345  19.1 MB    1,201\n"),
                    HasSubstr("general      0          0          0      0 B        0\n"),
                    HasSubstr("  medquad: skipped 1,201 (1,200 empty text, 1 invalid JSON)\n"),
                    HasSubstr("  medquad: ignored 3 (3 file with extension .md)\n"), Not(HasSubstr("general: "))));
  EXPECT_EQ(source_counts_from_json(to_json(counts), "x"), counts);
  EXPECT_THROW(source_counts_from_json(Json::parse(R"({"files": -1})"), "x"), DataError);
}

}  // namespace
}  // namespace adept::data
