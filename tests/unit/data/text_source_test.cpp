#include "adept/data/text_source.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

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

std::vector<std::string> read_all(const TextSource& source, SourceCounts* counts = nullptr) {
  DocumentReader reader(source);
  std::vector<std::string> texts;
  for (std::string text; reader.next(text);) texts.push_back(text);
  if (counts) *counts = reader.counts();
  return texts;
}

TextSource source_of(std::vector<std::string> paths) { return {.name = "s", .paths = std::move(paths)}; }
TextSource txt_source(const std::string& path, TxtRecord record) {
  return {.name = "s", .paths = {path}, .txt_record = record};
}
TextSource skipping(const std::string& path) {
  return {.name = "s", .paths = {path}, .on_bad_record = BadRecord::kSkip};
}

std::vector<std::string> names_of(const TextSource& source, const std::string& root) {
  std::vector<std::string> names;
  for (const fs::path& file : find_files(source).files) names.push_back(fs::relative(file, root).string());
  return names;
}

TEST(TextSource, ReadsAWholeTextFileAsOneDocument) {
  const TemporaryFolder folder;
  const std::string text = "one\r\n\n two\twith NUL \0 and caf\u00e9\n";
  SourceCounts counts;
  EXPECT_THAT(read_all(source_of({folder.write("a.txt", text)}), &counts), ElementsAre(text));
  EXPECT_EQ(counts.files, 1);
  EXPECT_EQ(counts.documents, 1);
  EXPECT_EQ(counts.bytes, static_cast<std::int64_t>(text.size()));
  EXPECT_THAT(counts.skipped, IsEmpty());
}

TEST(TextSource, ReadsGzippedFilesAsPlainOnes) {
  const TemporaryFolder folder;
  EXPECT_THAT(
      read_all(source_of({folder.write("a.txt.gz", "one\ntwo\n"), folder.write("b.JSONL.GZ", "{\"text\":\"x\"}"),
                          folder.write("c.jsonl.gz", "{\"text\":\"y\"}\n{\"text\":\"z\"}\n")})),
      ElementsAre("one\ntwo\n", "x", "y", "z"));
}

TEST(TextSource, SkipsAByteOrderMark) {
  const TemporaryFolder folder;
  EXPECT_THAT(read_all(source_of({folder.write("a.txt", "\xEF\xBB\xBFone"),
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
  TextSource source = source_of({folder.write(
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
  EXPECT_THAT(read_all(source_of({path, folder.write("empty.txt", "")}), &counts), ElementsAre("a", " "));
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
    const std::string message = message_of<DataError>([&] { read_all(source_of({path})); });
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
  EXPECT_THAT(read_all(source_of({path})), ElementsAre("a/\b\f\u20ac\U0001F600", std::string("b\xe2\x80\xa8\0c", 6)));
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
      EXPECT_EQ(read_all(source_of({path}), &counts), expected) << size << filler;
      EXPECT_EQ(read_all(source_of({folder.write("a.json", "[{\"text\":\"" + text + "]\\\"x\"}]")})),
                std::vector<std::string>{text + "]\"x"});
      const auto bad = folder.write("b.jsonl", "{\"text\":\"" + text + "\x1f\"}\n");
      EXPECT_THAT(message_of<DataError>([&] { read_all(source_of({bad})); }), HasSubstr("control character"));
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
  EXPECT_THAT(message_of<DataError>([&] { read_all(source_of({path})); }),
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
      for (const TextSource& source : {source_of({path}), skipping(path), txt_source(path, TxtRecord::kLine)})
        EXPECT_THAT(message_of<DataError>([&] { read_all(source); }),
                    AllOf(HasSubstr(path + ": found " + name + " text"), HasSubstr("iconv -f " + std::string(name))));
    }
  EXPECT_THAT(read_all(source_of({folder.write("zeros.txt", std::string(64, '\0'))})), testing::SizeIs(1));
}

TEST(TextSource, RefusesABadRecordWithItsPlace) {
  for (const BadLine& bad : kBadLines) {
    const TemporaryFolder folder;
    const auto path = folder.write("a.jsonl", "{\"text\":\"a\"}\n\n" + std::string(bad.line) + "\n");
    const auto message = message_of<DataError>([&] { read_all(source_of({path})); });
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
  EXPECT_THAT(message_of<DataError>([&] { read_all(source_of({path})); }), HasSubstr("nesting beyond 256 levels"));
}

TEST(TextSource, KeepsMessagesShort) {
  const TemporaryFolder folder;
  const std::string huge(1'000'000, 'k');
  const auto path = folder.write("a.jsonl", "{\"" + huge + "\": \"" + huge + "\"}\n");
  EXPECT_LT(message_of<DataError>([&] { read_all(source_of({path})); }).size(), 1000u);
  const auto cut = folder.write("b.jsonl", "{\"text\": \"" + huge);
  EXPECT_LT(message_of<DataError>([&] { read_all(source_of({cut})); }).size(), 1000u);
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
  for (const TextSource& source : {source_of({path}), skipping(path)})
    EXPECT_THAT(message_of<DataError>([&] { read_all(source); }), HasSubstr(path));
}

TEST(TextSource, FindsFilesOfAFolderSortedAndCountsTheOthers) {
  const TemporaryFolder folder;
  for (const char* name : {"d/b.txt", "d/a.jsonl", "d/sub/c.txt.gz", "d/sub/deep/z.jsonl.gz", "d/readme.md",
                           "d/data.xlsx.gz", "d/LICENSE", "d/x.yaml", "d/.hidden.txt", "d/.git/y.txt"})
    folder.write(name, "x");
  fs::create_symlink("nowhere.txt", folder / "d/broken.txt");
  const TextSource source = source_of({folder / "d"});
  EXPECT_THAT(names_of(source, folder / "d"), ElementsAre("a.jsonl", "b.txt", "sub/c.txt.gz", "sub/deep/z.jsonl.gz"));
  EXPECT_THAT(find_files(source).ignored,
              ElementsAre(Pair("README", 1), Pair("broken link", 1), Pair("file with extension .xlsx.gz", 1),
                          Pair("file with extension .yaml", 1), Pair("file without extension", 1),
                          Pair("hidden file or folder", 2)));
}

TEST(TextSource, ReadsEachFileOnce) {
  const TemporaryFolder folder;
  const auto a = folder.write("d/a.txt", "a"), b = folder.write("d/b.txt", "b");
  fs::create_directory_symlink(folder / "d", folder / "d/circle");
  fs::create_symlink(a, folder / "d/link.txt");
  const TextSource source = source_of({b, folder / "d", folder / "d/../d/a.txt"});
  EXPECT_THAT(read_all(source), ElementsAre("b", "a"));
  EXPECT_THAT(find_files(source).ignored, ElementsAre(Pair("file already listed", 3), Pair("folder already read", 1)));
}

TEST(TextSource, ExpandsGlobs) {
  const TemporaryFolder folder;
  for (const char* name : {"a1.txt", "a2.txt", "b1.jsonl", "n.rst", ".h.txt", "x/a3.txt", "x/y/a4.txt", "x/.z/a5.txt"})
    folder.write(name, "x");
  const auto glob = [&](const char* pattern) { return names_of(source_of({folder / pattern}), folder.path()); };
  EXPECT_THAT(glob("a*.txt"), ElementsAre("a1.txt", "a2.txt"));
  EXPECT_THAT(glob("a?.txt"), ElementsAre("a1.txt", "a2.txt"));
  EXPECT_THAT(glob("[!a]*"), ElementsAre("b1.jsonl", "x/a3.txt", "x/y/a4.txt")) << "a folder stands for its files";
  EXPECT_THAT(glob("*/a3.txt"), ElementsAre("x/a3.txt"));
  EXPECT_THAT(glob("**/a[1-4].txt"), ElementsAre("a1.txt", "a2.txt", "x/a3.txt", "x/y/a4.txt"));
  EXPECT_THAT(glob("x/**"), ElementsAre("x/a3.txt", "x/y/a4.txt"));
  EXPECT_THAT(glob(".*.txt"), ElementsAre(".h.txt"));
  EXPECT_THAT(glob("**/**/**/**/**/a4.txt"), ElementsAre("x/y/a4.txt"));
  const SourceFiles found = find_files(source_of({folder / "[an]*"}));
  EXPECT_THAT(found.files, testing::SizeIs(2));
  EXPECT_THAT(found.ignored, ElementsAre(Pair("file with extension .rst", 1)));
}

TEST(TextSource, TakesAnExistingFileWhoseNameLooksLikeAGlob) {
  const TemporaryFolder folder;
  folder.write("a[1].txt", "bracket");
  folder.write("a1.txt", "plain");
  EXPECT_THAT(read_all(source_of({folder / "a[1].txt"})), ElementsAre("bracket"));
}

TEST(TextSource, ListsEveryPathThatIsWrong) {
  const TemporaryFolder folder;
  const auto table = folder.write("table.xlsx", "x");
  fs::create_directory(folder / "empty");
  ASSERT_EQ(mkfifo((folder / "pipe.txt").c_str(), 0600), 0);
  const TextSource source{.name = "med",
                          .paths = {table, folder / "gone.txt", folder / "*.jsonl", folder / "empty", "",
                                    folder / "pipe.txt", folder.write("good.txt", "x")}};
  const auto message = message_of<ConfigError>([&] { find_files(source); });
  EXPECT_THAT(message,
              AllOf(HasSubstr("source \"med\""), HasSubstr(".txt, .md, .markdown, .jsonl"), HasSubstr(".gz, .zst"),
                    HasSubstr("table.xlsx: is a file with extension .xlsx"), HasSubstr("gone.txt: does not exist"),
                    HasSubstr("*.jsonl: contains or matches no file of text"),
                    HasSubstr("empty: contains or matches no file of text"), HasSubstr("\"\": does not exist")));
  EXPECT_THAT(message, AllOf(HasSubstr("pipe.txt: is a pipe or device"), Not(HasSubstr("good.txt"))));
  EXPECT_THAT(message_of<ConfigError>([] { find_files(TextSource{.name = "none"}); }), HasSubstr("found no path"));
}

TEST(TextSource, ListsTheKindsOfTextOnlyWhereAKindIsAProblem) {
  const TemporaryFolder folder;
  folder.write("d/train.jsonl", "{}");
  folder.write("d/test.jsonl", "{}");
  for (const std::string& path : {folder / "d", folder / "gone.txt", "@" + (folder / "gone"), std::string("hf://a/b")})
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_of({path})); }),
                AllOf(HasSubstr("source \"s\": its text cannot be read:\n  "), Not(HasSubstr(".parquet"))))
        << path;
}

TEST(TextSource, SaysHowToDownloadWhatIsNotHere) {
  for (const char* path : {"https://huggingface.co/datasets/a/b/resolve/main/x.jsonl", "hf://datasets/a/b/*.parquet",
                           "s3://bucket/x.jsonl"})
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_of({path})); }),
                AllOf(HasSubstr(path + std::string(": is a URL; expected a local path")), HasSubstr("hf download ")));
  EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_of({"someone/something-20k"})); }),
              HasSubstr("someone/something-20k: does not exist. If it is a data set of the Hugging Face Hub"));
  const TemporaryFolder folder;
  for (const std::string& path : {folder / "a/b", std::string("nowhere/b.jsonl"), std::string("./nowhere/b")})
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_of({path})); }), Not(HasSubstr("Hub"))) << path;
}

TEST(TextSource, NamesTheMissingFileOfAMegatronDataset) {
  const TemporaryFolder folder;
  folder.write("a.bin", "x");
  folder.write("b.idx", "x");
  for (const auto& [prefix, there, missing] : {std::tuple("a", ".bin", ".idx"), {"b", ".idx", ".bin"}})
    for (const char* extension : {"", ".bin", ".idx"})
      EXPECT_THAT(
          message_of<ConfigError>([&] { find_files(source_of({folder / (std::string(prefix) + extension)})); }),
          HasSubstr("a Megatron-Core dataset consists of two files, and " + folder / (prefix + std::string(missing)) +
                    " is missing beside " + folder / (prefix + std::string(there))))
          << prefix << extension;
}

TEST(TextSource, TakesNoStoreThatIsNotComplete) {
  const TemporaryFolder folder;
  for (const bool has_progress : {true, false}) {
    folder.write("d/store/00000.tokens", "x");
    if (has_progress) folder.write("d/store/progress.json", "{\"text\": \"x\"}");
    EXPECT_THAT(message_of<DataError>([&] { find_files(source_of({folder / "d/store"})); }),
                AllOf(HasSubstr("d/store: is a token store that is not complete"), HasSubstr("adept tokenize")));
    folder.write("d/a.txt", "x");
    EXPECT_THAT(find_files(source_of({folder / "d"})).ignored, ElementsAre(Pair("token store", 1)));
    fs::remove_all(folder / "d");
  }
}

TEST(TextSource, SaysWhatToDoWithOtherFiles) {
  const TemporaryFolder folder;
  const std::pair<const char*, const char*> conversions[] = {
      {"a.jsonl.xz", "xz -dk "}, {"a.bz2", "bzip2 -dk "}, {"a.rst", "--format text"}, {"README", "--format text"}};
  for (const auto& [name, command] : conversions) {
    folder.write(std::string("d/") + name, "x");
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_of({folder / (std::string("d/") + name)})); }),
                AllOf(HasSubstr(command), HasSubstr(folder / (std::string("d/") + name)), HasSubstr(".jsonl")));
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_of({folder / "d"})); }),
                AllOf(HasSubstr("contains or matches no file of text, but "), HasSubstr(command)));
    fs::remove_all(folder / "d");
  }
}

TEST(TextSource, LeavesOutWhatThisProgramWrites) {
  const TemporaryFolder folder;
  for (const char* name : {"d/a.txt", "d/run/trainer_log.jsonl", "d/run/versions.json", "d/run/stages/probe.json",
                           "d/run/model/merges.txt", "d/model/config.json", "d/model/tokenizer.json",
                           "d/model/merges.txt", "d/config.json", "d/stages/b.txt"})
    folder.write(name, "x");
  const TextSource source = source_of({folder / "d"});
  EXPECT_THAT(names_of(source, folder / "d"), ElementsAre("a.txt", "config.json", "stages/b.txt"))
      << "a name alone says nothing";
  EXPECT_THAT(find_files(source).ignored, ElementsAre(Pair("folder of an adept run", 1), Pair("model folder", 1)));
  for (const char* glob : {"d/**/*.txt", "d/*", "d/*/*"})
    for (const std::string& name : names_of(source_of({folder / glob}), folder / "d"))
      EXPECT_THAT(name, testing::AnyOf("a.txt", "config.json", "stages/b.txt")) << glob;
  EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_of({folder / "d/run"})); }),
              HasSubstr("d/run: is a folder of an adept run"));
}

TEST(TextSource, RefusesToWriteWhereItReads) {
  const TemporaryFolder folder;
  folder.write("d/a.jsonl", "x");
  const TextSource source = source_of({folder / "d"}), glob = source_of({folder / "d/*"});
  const auto message = [](const TextSource& of, const std::string& out) {
    return message_of<ConfigError>([&] { check_not_read(of, out, "--out"); });
  };
  EXPECT_THAT(message(source, folder / "d"), HasSubstr("/d: is an input of the source \"s\""));
  EXPECT_THAT(message(source, folder / "d/sub/new.txt"), HasSubstr("the next run would read it as text"));
  EXPECT_THAT(message(glob, folder / "d/a.jsonl"),
              HasSubstr("/a.jsonl: matches " + folder.path() + "/d/*, an input of"));
  for (const char* pattern : {"d/*.txt", "d/**/*.txt", "*/new.txt", "**/*.txt", "./d/../d/n?w.txt"})
    EXPECT_THAT(message(source_of({folder / pattern}), folder / "d/new.txt"), HasSubstr("the next run would read it"))
        << pattern;
  for (const char* pattern : {"d/*.jsonl", "d/*/*.txt", "e/*", "d/old*.txt", "**/d/*/*"})
    check_not_read(source_of({folder / pattern}), folder / "d/new.txt", "--out");
  for (const char* out : {"d/result.yaml", "d/run", "e.txt", "dd/x.txt"}) check_not_read(source, folder / out, "--out");
}

TEST(TextSource, RefusesAFolderWhoseRecordsAGlobWouldRead) {
  const TemporaryFolder folder;
  folder.write("d/a.jsonl", "x");
  const auto check = [&](const char* pattern, const char* output) {
    check_not_read(source_of({folder / pattern}), folder / output, "output_dir", {"log.jsonl"});
  };
  for (const char* pattern : {"d/*.jsonl", "d/l*", "d/**/*.jsonl"})
    EXPECT_THAT(
        message_of<ConfigError>([&] { check(pattern, "d"); }),
        AllOf(HasSubstr("/d: will contain log.jsonl, which matches " + folder.path()), HasSubstr("another folder")))
        << pattern;
  for (const char* pattern : {"d/*.txt", "d/med*.jsonl", "*/*.jsonl", "**/*.jsonl", "d/a.jsonl"}) check(pattern, "d");
  for (const char* pattern : {"d/*.jsonl", "d/**/*.jsonl", "d/*/*.jsonl"}) check(pattern, "d/run");
}

TEST(TextSource, EndsGlobsThatGoInCircles) {
  const TemporaryFolder folder;
  folder.write("d/a.txt", "x");
  for (int i = 0; i < 8; ++i) fs::create_directory_symlink(folder / "d", folder / ("d/link" + std::to_string(i)));
  EXPECT_THAT(names_of(source_of({folder / "d/*/*/*/*/*/*/*/*/*/*/*/*/*.txt"}), folder / "d"), testing::SizeIs(1));
}

TEST(TextSource, TellsWhereADocumentIs) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", "\n{\"text\":\"x\"}\n{\"text\":\"y\"}\n");
  const auto whole = folder.write("b.txt", "z");
  DocumentReader reader(source_of({path, whole}));
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
  TextSource source = source_of({folder.write("a.jsonl", "{\"text\":\"1\"}\nbad\n\n{\"text\":\"2\"}\n"),
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
  const TextSource source = source_of({folder.write("a.txt", "1"), folder.write("b.txt", "2")});
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
  const auto base = source_fingerprint(source_of({a, b}));
  EXPECT_EQ(source_fingerprint({.name = "other", .paths = {c, b}}), base);
  EXPECT_NE(source_fingerprint(source_of({b, a})), base) << "another order";
  EXPECT_NE(source_fingerprint(source_of({a})), base);
  EXPECT_NE(source_fingerprint(source_of({write("ab.txt", "onetwo")})), base) << "other documents";
  EXPECT_NE(source_fingerprint(source_of({write("ab.txt", "onekind 0\ntwo")})), base) << "other documents";
  EXPECT_NE(source_fingerprint({.name = "s", .paths = {a, b}, .txt_record = TxtRecord::kLine}), base);
  write("b.txt", "twO");
  EXPECT_NE(source_fingerprint(source_of({a, b})), base);
  write("b.txt", "two");
  EXPECT_EQ(source_fingerprint(source_of({a, b})), base);
  EXPECT_EQ(content_hash(source_of({c, b})), content_hash(source_of({a, b})));
  fs::last_write_time(b, time + std::chrono::nanoseconds(1));
  EXPECT_NE(source_fingerprint(source_of({a, b})), base) << "it may have been written to";
  EXPECT_EQ(content_hash(source_of({c, b})), content_hash(source_of({a, b}))) << "which reads all";
}

TEST(TextSource, FingerprintOfALargeFileSamplesItsBytes) {
  const TemporaryFolder folder;
  std::string text(std::size_t{1} << 20, 'a');
  const auto time = fs::file_time_type::clock::now();
  const auto fingerprint = [&] {
    const auto path = folder.write("a.txt", text);
    fs::last_write_time(path, time);
    return std::pair(source_fingerprint(source_of({path})), content_hash(source_of({path})));
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
