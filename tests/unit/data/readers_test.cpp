#include <fmt/format.h>
#include <gmock/gmock.h>

#include <map>

#include "adept/core/error.h"
#include "adept/data/chat_template.h"
#include "adept/data/interchange/megatron.h"
#include "adept/data/readers/formats.h"
#include "adept/data/text_source.h"
#include "adept/data/text_template.h"
#include "adept/data/tokenize.h"
#include "data_test_util.h"
#include "tests/support/captured_log.h"

namespace adept::data {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;

struct Read {
  std::vector<std::string> texts;
  std::vector<std::string> positions;
  SourceCounts counts;
  std::vector<SkippedRecord> skipped;
};

Read read_source(const TextSource& source) {
  DocumentReader reader(source);
  Read read;
  for (std::string text; reader.next(text);) {
    read.texts.push_back(text);
    read.positions.push_back(reader.position());
  }
  read.counts = reader.counts();
  read.skipped = reader.skipped();
  return read;
}

std::vector<std::string> texts_of(const TextSource& source) { return read_source(source).texts; }

TextSource one(const std::string& path) { return {.name = "s", .paths = {path}}; }
TextSource skipping_bad(const std::string& path) {
  return {.name = "s", .paths = {path}, .on_bad_record = BadRecord::kSkip};
}
TextSource with_template(const std::string& path, const std::string& text) {
  return {.name = "s", .paths = {path}, .text_template = text};
}

std::string error_of(const TextSource& source) {
  return message_of<DataError>([&] { read_source(source); });
}

// One bad record among good ones, in every format with fields that is text.
struct BadFile {
  const char* name;
  std::string text;
  std::string place;  // of the bad record, after the path
  std::string reason;
  std::string found;
};

std::vector<BadFile> bad_files() {
  const std::string bad_utf8 = "caf\xE9";
  return {
      {"a.jsonl", "{\"text\":\"a\"}\n{\"x\":1}\n{\"text\":\"b\"}\n", ":2", "missing field", "the keys \"x\""},
      {"a.ndjson", "{\"text\":\"a\"}\n{\"text\":null}\n{\"text\":\"b\"}", ":2", "null field", "null"},
      {"a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"" + bad_utf8 + "\"}\n{\"text\":\"b\"}", ":2", "invalid UTF-8",
       "after \"{\\\"text\\\":\\\"caf\""},
      {"a.json", "[{\"text\":\"a\"},\n {\"text\":7},\n {\"text\":\"b\"}]", ":2, element 2", "field not a string",
       "a number"},
      {"a.json", "[{\"text\":\"a\"},\n 7, {\"text\":\"b\"}]\n", ":2, element 2", "not an object", "a number"},
      {"a.json", "[{\"text\":\"a\"}, {\"text\":null}, {\"text\":\"b\"}]", ":1, element 2", "null field", "null"},
      {"a.json", "[{\"text\":\"a\"}, {\"text\" \"c\"}, {\"text\":\"b\"}]", ":1, element 2", "invalid JSON", "colon"},
      {"a.json", "[{\"text\":\"a\"}, {\"text\":\"" + bad_utf8 + "\"}, {\"text\":\"b\"}]", ":1, element 2",
       "invalid UTF-8", "after"},
      {"a.json", "{\"text\":\"a\"}\n{\n\"x\": 1}\n{\"text\":\"b\"}", ":2", "missing field", "the keys \"x\""},
      {"a.csv", "id,text\n1,a\n2\n3,b\n", ":3", "ragged row", "1 fields; expected 2 fields"},
      {"a.csv", "id,text\n1,a\n2,b,c\n3,b\n", ":3", "ragged row", "3 fields; expected 2 fields"},
      {"a.csv", "id,text\n\"1\n1\",a\n2,\"b\" c\n3,b\n", ":4", "invalid CSV",
       "text after the closing quote of column 2"},
      {"a.csv", "id,text\n1,a\n2," + bad_utf8 + "\n3,b\n", ":3", "invalid UTF-8", "after \"caf\""},
      {"a.tsv", "id\ttext\n1\ta\n2\tb\t\n3\tb\n", ":3", "ragged row", "3 fields"},
  };
}

TEST(Readers, RefuseABadRecordWithItsPlaceOrSkipAndListIt) {
  for (const BadFile& bad : bad_files()) {
    const TemporaryFolder folder;
    for (const char* compression : {"", ".gz", ".zst"}) {
      const std::string path = folder.write(std::string(bad.name) + compression, bad.text);
      EXPECT_THAT(error_of(one(path)), AllOf(HasSubstr(path + bad.place + ": " + bad.reason), HasSubstr(bad.found),
                                             HasSubstr("expected"), HasSubstr("on_bad_record: skip")));
      const Read read = read_source(skipping_bad(path));
      EXPECT_THAT(read.texts, ElementsAre("a", "b")) << path << bad.text;
      EXPECT_THAT(read.counts.skipped, ElementsAre(Pair(bad.reason, 1)));
      ASSERT_EQ(read.skipped.size(), 1u);
      EXPECT_EQ(read.skipped[0].position, path + bad.place);
      EXPECT_EQ(read.skipped[0].reason, bad.reason);
    }
  }
}

TEST(Readers, ListTheFirstHundredSkippedRecordsAndCountAll) {
  const TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 150; ++i) lines += "\n{\"text\": " + std::to_string(i) + "}\n{\"text\": \"\"}\n";
  const Read read = read_source(skipping_bad(folder.write("a.jsonl", lines)));
  EXPECT_THAT(read.counts.skipped,
              ElementsAre(Pair("blank line", 150), Pair("empty text", 150), Pair("field not a string", 150)));
  ASSERT_EQ(read.skipped.size(), 100u);
  EXPECT_EQ(read.skipped[0].position, folder / "a.jsonl:2");
  EXPECT_EQ(read.skipped[1].reason, "empty text");
}

TEST(Readers, RefuseFilesThatAreCutShortWhateverThePolicy) {
  std::string lines, array = "[", rows = "text\n";
  for (int i = 0; i < 5000; ++i) {
    const std::string text = "line " + std::to_string(i * 7919);
    lines += "{\"text\":\"" + text + "\"}\n";
    array += "{\"text\":\"" + text + "\"},";
    rows += text + "\n";
  }
  for (const auto& [name, text] :
       {std::pair("a.jsonl", lines), {"a.json", array + "{\"text\":\"\"}]"}, {"a.csv", rows}})
    for (const char* compression : {".gz", ".zst"}) {
      const TemporaryFolder folder;
      const std::string path = folder.write(std::string(name) + compression, text);
      std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
      for (const TextSource& source : {one(path), skipping_bad(path)})
        EXPECT_THAT(error_of(source), AllOf(HasSubstr(path + ": "), HasSubstr("cut short")));
    }
  const TemporaryFolder folder;
  for (const std::string end : {"", "{\"text\":\"a", "{\"text\":\"a\"}", "  "}) {
    const std::string path = folder.write("a.json", array + end);
    EXPECT_THAT(error_of(skipping_bad(path)),
                AllOf(HasSubstr(path + ":1: "), HasSubstr("the JSON array ends too early")));
  }
}

TEST(Readers, TakeTheFormsThatTheirFormatsAllow) {
  const std::map<std::string, std::string> files = {
      {"crlf.jsonl", "{\"text\":\"a\"}\r\n{\"text\":\"b\"}\r\n"},
      {"mark.jsonl", "\xef\xbb\xbf{\"text\":\"a\"}\n{\"text\":\"b\"}"},
      {"mark.json", "\xef\xbb\xbf [ {\"text\":\"a\"} ,\r\n{\"text\":\"b\"}\n]\n \n"},
      {"lines.json", "{\"text\":\"a\"}\n{\"text\":\"b\"}"},
      {"pretty.json", "{\n  \"text\": \"a\"\n}\n{\n  \"x\": [{\"y\": \"]}\\\"\"}],\n  \"text\": \"b\"\n}"},
      {"brackets.json", "[{\"x\": \"],[{\\\\\", \"text\":\"a\"},{\"y\":[[],{}],\"text\":\"b\"}]"},
      {"mark.csv", "\xef\xbb\xbftext,id\r\na,1\r\n\r\nb,2"},
      {"quoted.csv", "\"text\",\"id\"\n\"a\",\"1,\"\"2\"\"\r\n3\"\nb,"},
      {"one.csv", "text\na\nb\n"},
      {"tabs.tsv", "id\ttext\n\"\t\"\ta\n2\t\"b\"\n"},
      {"returns.csv", "id,text\r1,a\r\r2,b\r"},
      {"returns.tsv", "\"id\r1\"\ttext\r\"1\r2\"\ta\r2\t\"b\""},
      {"returns.jsonl", "{\"text\":\"a\"}\r{\"text\":\"b\"}\r"},
      {"returns.json", "{\"text\":\"a\"}\r{\"text\":\"b\"}\r"},
  };
  const TemporaryFolder folder;
  for (const auto& [name, text] : files)
    for (const char* compression : {"", ".gz", ".zst"})
      EXPECT_THAT(texts_of(one(folder.write(name + compression, text))), ElementsAre("a", "b")) << name << compression;
}

TEST(CsvReader, KeepsEveryByteOfAField) {
  const TemporaryFolder folder;
  std::string text = "text\n\"one, \"\"two\"\"\r\nthree\n\"\n 5\" pipe \n\"\"\n\"?\"\n\"\"\"\"\n";
  text[text.find('?')] = '\0';
  const Read read = read_source(one(folder.write("a.csv", text)));
  EXPECT_THAT(read.texts, ElementsAre("one, \"two\"\r\nthree\n", " 5\" pipe ", std::string("\0", 1), "\""));
  EXPECT_THAT(read.positions,
              ElementsAre(folder / "a.csv:2", folder / "a.csv:5", folder / "a.csv:7", folder / "a.csv:8"));
  EXPECT_THAT(read.counts.skipped, ElementsAre(Pair("empty text", 1)));
}

TEST(CsvReader, ReadsRowsAcrossBuffers) {
  const TemporaryFolder folder;
  for (std::size_t size = (256 << 10) - 9; size <= (256 << 10) + 2; ++size) {
    const std::string a(size - 5, 'a');  // "text\n" is in front
    EXPECT_THAT(texts_of(one(folder.write("a.csv", "text\n" + a + "\r\n\"b\r\n\"\"\"\r\nc\rd\r\n"))),
                ElementsAre(a, "b\r\n\"", "c\rd"))
        << size;
    EXPECT_THAT(texts_of(one(folder.write("b.csv", "text\n\"" + a + "\"\"\"\n\"b\"\n"))), ElementsAre(a + "\"", "b"))
        << size;
  }
}

TEST(CsvReader, CountsLinesThatEndInAReturn) {
  const TemporaryFolder folder;
  const Read read = read_source(one(folder.write("a.csv", "id,text\r1,a\r\"2\r3\",\"b\rc\nd\"\r4,e\n5,f")));
  EXPECT_THAT(read.texts, ElementsAre("a", "b\rc\nd", "e", "f"));
  EXPECT_THAT(read.positions,
              ElementsAre(folder / "a.csv:2", folder / "a.csv:3", folder / "a.csv:7", folder / "a.csv:8"));
  EXPECT_THAT(texts_of(one(folder.write("b.csv", "text\nc\rd\r\ne\r"))), ElementsAre("c\rd", "e\r"))
      << "a return is text if the first row ends in another way";
}

TEST(CsvReader, NeedsAHeaderWithTheField) {
  const TemporaryFolder folder;
  for (const std::string text : {"", "\ntext\n", "\"text\n"})
    for (const TextSource& source : {one(folder.write("a.csv", text)), skipping_bad(folder.write("a.csv", text))})
      EXPECT_THAT(error_of(source), AllOf(HasSubstr("a.csv:1: found "), HasSubstr("expected a header row")));
  const auto path = folder.write("b.csv", "id,body\n1,a\n");
  EXPECT_THAT(error_of(one(path)), AllOf(HasSubstr(path + ":2: missing field: found the columns \"id\", \"body\""),
                                         HasSubstr("--text-field")));
  EXPECT_THAT(error_of(one(folder.write("c.csv", "text,text\na,b\n"))), HasSubstr("the column \"text\" 2 times"));
  const auto open = folder.write("d.csv", "text\na\n\"b\nc\n");
  EXPECT_THAT(error_of(one(open)), HasSubstr(open + ":3: invalid CSV: found a quote that is not closed"));
  EXPECT_THAT(read_source(skipping_bad(open)).texts, ElementsAre("a"));
}

TEST(JsonReader, RefusesWhatIsNoListOfObjects) {
  const TemporaryFolder folder;
  for (const auto& [text, found] : {std::pair("", "the end of the file"),
                                    {"  \n\"a\"", "\"\\\"a\\\"\""},
                                    {"[{\"text\":\"a\"},]", "] after a comma"},
                                    {"[{\"text\":\"a\"}] x", "\"x\"; expected nothing after the array"}})
    EXPECT_THAT(error_of(skipping_bad(folder.write("a.json", text))), AllOf(HasSubstr("a.json:"), HasSubstr(found)));
  EXPECT_THAT(texts_of(one(folder.write("a.json", "[]\n"))), IsEmpty());
}

TEST(Readers, ReadNestedFields) {
  const TemporaryFolder folder;
  const auto nested = [&](const std::string& name, const std::string& text, const std::string& field) {
    return TextSource{.name = "s", .paths = {folder.write(name, text)}, .text_field = field};
  };
  const std::string line =
      R"({"meta": {"x": {"text": "no"}, "text": "a", "deep": {"er": "b"}}, "text": "c", "a.b": "d"})";
  EXPECT_THAT(texts_of(nested("a.jsonl", line, "meta.text")), ElementsAre("a"));
  EXPECT_THAT(texts_of(nested("a.jsonl", line, "meta.deep.er")), ElementsAre("b"));
  EXPECT_THAT(texts_of(nested("a.jsonl", line, "text")), ElementsAre("c"));
  EXPECT_THAT(texts_of(nested("a.jsonl", line, "a.b")), ElementsAre("d")) << "a key with a dot";
  EXPECT_THAT(texts_of(nested("a.csv", "meta.text\na\n", "meta.text")), ElementsAre("a"));
  EXPECT_THAT(error_of(nested("a.jsonl", line, "meta.title")),
              AllOf(HasSubstr("missing field: found the keys \"meta\", \"meta.x\", \"meta.text\""),
                    HasSubstr("the text in \"meta.title\"")));
  EXPECT_THAT(error_of(nested("a.jsonl", R"({"meta": null})", "meta.text")), HasSubstr("null field"));
  EXPECT_THAT(error_of(nested("a.jsonl", R"({"meta": "x"})", "meta.text")), HasSubstr("missing field"));
  EXPECT_THAT(error_of(nested("a.jsonl", R"({"meta": {"text": "a"}, "meta.text": "b"})", "meta.text")),
              HasSubstr("repeated field: found the key \"meta.text\" 2 times"));
}

TEST(Readers, FillATemplate) {
  const TemporaryFolder folder;
  const auto jsonl = folder.write("a.jsonl", R"({"question": "1+1?", "answer": "2", "meta": {"by": "me"}})"
                                             "\n");
  const auto csv = folder.write("a.csv", "answer,question\n2,1+1?\n");
  EXPECT_THAT(texts_of(with_template(jsonl, "{question}\n{{{answer}}} {question}{meta.by}.")),
              ElementsAre("1+1?\n{2} 1+1?me."));
  EXPECT_THAT(texts_of(with_template(csv, "{question}\n{answer}")), ElementsAre("1+1?\n2"));
  EXPECT_THAT(error_of(with_template(csv, "{question} {reason}")),
              AllOf(HasSubstr("a.csv:2: missing field: found the columns \"answer\", \"question\""),
                    HasSubstr("a string, number or boolean in \"reason\", which the template uses")));
  const auto mixed = folder.write(
      "b.jsonl", "{\"a\":\"x\",\"b\":null}\n{\"a\":\"x\",\"b\":[1]}\n{\"a\":\"x\"}\n{\"a\":\"\",\"b\":\"\"}\n");
  TextSource source = with_template(mixed, "{a}{b}");
  source.on_bad_record = BadRecord::kSkip;
  EXPECT_THAT(read_source(source).counts.skipped, ElementsAre(Pair("empty text", 1), Pair("field not a string", 1),
                                                              Pair("missing field", 1), Pair("null field", 1)));
  EXPECT_THAT(message_of<ConfigError>([&] { read_source(with_template(folder.write("t.txt", "x"), "{a}")); }),
              AllOf(HasSubstr("template"), HasSubstr("t.txt is a text file")));
}

TEST(Readers, NeedFieldsWhereAFieldIsNamed) {
  const TemporaryFolder folder;
  folder.write("d/a.txt", "x");
  TextSource source{.name = "s", .paths = {folder / "d"}, .text_field = "q"};
  EXPECT_THAT(message_of<ConfigError>([&] { read_source(source); }),
              AllOf(HasSubstr("text_field: found fields, but "), HasSubstr("a.txt is a text file")));
  folder.write("d/b.jsonl", "{\"q\": \"y\"}");
  EXPECT_THAT(texts_of(source), ElementsAre("x", "y")) << "the field is that of the other file";
}

TEST(Formats, OfAStreamAreFoundByItsFirstBytes) {
  const TemporaryFolder folder;
  const std::pair<std::string, std::string_view> cases[] = {
      {"{\"text\": 1}", "jsonl"},
      {"[{\"content\": \"x\"}]", "json"},
      {"\xef\xbb\xbf\n [\r\n\t{\"content\"", "json"},
      {"[1, 2]", "text"},
      {"[ text ]", "text"},
      {"[", "text"},
      {"", "text"},
      {"PAR1", "parquet"},
      {"ARROW1", "arrow"},
      {std::string("\xff\xff\xff\xff\x78\x01\x00\x00", 8), "arrow"},
      {std::string("\xff\xff\xff\xff\x79\x01\x00\x00", 8), "text"},
      {"\xff\xff\xff\xff", "text"}};
  for (const auto& [text, name] : cases) EXPECT_EQ(format_of_stream(folder.write("x", text)).name, name) << text;
}

TEST(Readers, TellOfFilesWithoutRecords) {
  const TemporaryFolder folder;
  folder.write("d/a.jsonl", "{\"text\": \"x\"}");
  for (const char* name : {"d/b.jsonl", "d/c.jsonl"}) folder.write(name, "");
  folder.write("d/d.csv", "id,text\n");
  folder.write("d/e.json", "[]");
  folder.write("d/f.jsonl", "\n");
  const test::CapturedLog log;
  const Read read = read_source(one(folder / "d"));
  EXPECT_THAT(read.texts, ElementsAre("x"));
  EXPECT_THAT(read.counts.ignored, ElementsAre(Pair("file without records", 4)));
  EXPECT_THAT(log.text(), AllOf(HasSubstr("b.jsonl: has no record"), Not(HasSubstr("c.jsonl"))));
}

TEST(Readers, WriteNumbersAndBooleansInATemplateAsJsonDoes) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", R"({"i": -7, "f": 1.50, "b": true, "s": "x", "m": {"n": 1e3}})"
                                            "\n"
                                            R"({"i": {}, "f": 1, "b": false, "s": "", "m": {"n": 0}})"
                                            "\n");
  TextSource source = with_template(path, "{i} {f} {b} {s} {m.n}");
  EXPECT_THAT(error_of(source), AllOf(HasSubstr("a.jsonl:2: field not a string: found an object; expected a string, "
                                                "number or boolean in \"i\"")));
  source.on_bad_record = BadRecord::kSkip;
  EXPECT_THAT(texts_of(source), ElementsAre("-7 1.50 true x 1e3"));
  source.text_template.reset();
  source.text_field = "f";
  EXPECT_THAT(read_source(source).counts.skipped, ElementsAre(Pair("field not a string", 2)));
}

TEST(TextTemplate, RefusesBracesThatDoNotMatch) {
  for (const char* text : {"{a", "a}", "{a{b}}", "{}", "no field", "", "{{a}}", "{a}}"})
    EXPECT_THAT(message_of<ConfigError>([&] { parse_text_template(text); }),
                AllOf(HasSubstr("found"), HasSubstr("such as {question}")))
        << text;
}

TEST(Readers, ReadQuestionsOfEveryFormat) {
  const TemporaryFolder folder;
  const std::string question = R"({"question": "Q", "choices": ["x", "y"], "answer": 1, "n": [1e999]})";
  const std::string text = "Q\nA. x\nB. y\nAnswer: B";
  EXPECT_THAT(error_of(one(folder.write("bad.jsonl", question))), HasSubstr("invalid JSON"));
  const std::string good = question.substr(0, question.find(", \"n\"")) + "}";
  EXPECT_THAT(texts_of(one(folder.write("a.jsonl", good))), ElementsAre(text));
  EXPECT_THAT(texts_of(one(folder.write("a.json", "[" + good + "]"))), ElementsAre(text));
  EXPECT_THAT(error_of(one(folder.write("a.csv", "question,choices,answer\nQ,x,1\n"))),
              HasSubstr("a.csv:2: unreadable question"));
}

TEST(Readers, RefuseAQuestionThatWouldTakeMuchMemory) {
  const TemporaryFolder folder;
  std::string numbers = "1";
  while (numbers.size() <= kMaxJsonValueBytes) numbers += ",1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1";
  EXPECT_THAT(error_of(one(folder.write("a.jsonl", R"({"question":"Q","answer":0,"choices":[)" + numbers + "]}"))),
              HasSubstr("missing field"));
}

TEST(Readers, AreChosenByTheExtensionOrByTheOption) {
  const TemporaryFolder folder;
  const auto as = [&](const char* format, const std::string& path) {
    return TextSource{.name = "s", .paths = {path}, .format = format};
  };
  EXPECT_THAT(texts_of(one(folder.write("a.md", "# a"))), ElementsAre("# a"));
  EXPECT_THAT(texts_of(as("text", folder.write("a.py.gz", "x = 1"))), ElementsAre("x = 1"));
  EXPECT_THAT(texts_of(as("text", folder.write("b.jsonl", "{}"))), ElementsAre("{}"));
  EXPECT_THAT(texts_of(as("jsonl", folder.write("b.json", "{\"text\":\"a\"}\n"))), ElementsAre("a"));
  EXPECT_THAT(texts_of(as("csv", folder.write("table", "text\na\n"))), ElementsAre("a"));
  // In a folder, an extension of another format is that format; a glob is taken at its word.
  for (const char* name : {"d/a.rst", "d/b.jsonl", "d/c.txt", "d/README.md", "d/e"}) folder.write(name, name);
  const Read read = read_source(as("text", folder / "d"));
  EXPECT_THAT(read.texts, ElementsAre("d/README.md", "d/a.rst", "d/c.txt", "d/e"));
  EXPECT_THAT(read.counts.ignored, ElementsAre(Pair("file with extension .jsonl", 1)));
  EXPECT_THAT(texts_of(as("text", folder / "d/*.jsonl")), ElementsAre("d/b.jsonl"));
}

// A template that shows where it starts, and refuses one role.
ChatTemplate chat_template_in(const TemporaryFolder& folder) {
  folder.write("model/tokenizer_config.json", R"({"bos_token": "<s>"})");
  folder.write(
      "model/chat_template.jinja",
      "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
      "{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}");
  return ChatTemplate::from_model_dir(folder / "model");
}

TEST(Readers, RenderConversationsInOrderByTheChatTemplate) {
  const TemporaryFolder folder;
  const ChatTemplate chat = chat_template_in(folder);
  std::string lines;
  std::vector<std::string> expected, positions;
  for (int i = 0; i < 150; ++i) {
    const std::string n = std::to_string(i);
    if (i % 50 == 7)
      lines += R"({"chat": {"messages": [{"role": "tool", "content": "x"}]}})"
               "\n";
    else if (i % 50 == 8)
      lines += R"({"chat": {"messages": [{"content": "x"}]}})"
               "\n";
    else if (i % 50 == 9)
      lines += R"({"chat": {"messages": "x"}})"
               "\n\n{\"chat\": {}}\nx\n";
    else
      lines += R"({"chat": {"messages": [{"role": "user", "content": "q)" + n +
               R"("}, {"role": "assistant", "content": "a"}]}})"
               "\n";
    if (i % 50 < 7 || i % 50 > 9) expected.push_back("<s>[user] q" + n + "\n[assistant] a\n");
    if (i % 50 < 7 || i % 50 > 9)
      positions.push_back(folder / ("a.jsonl:" + std::to_string(i + 1 + 3 * ((i + 40) / 50))));
  }
  TextSource source{.name = "s",
                    .paths = {folder.write("a.jsonl", lines)},
                    .messages_field = "chat.messages",
                    .on_bad_record = BadRecord::kSkip};
  DocumentReader reader(source, &chat);
  std::vector<std::string> texts, found;
  for (std::string text; reader.next(text);) {
    texts.push_back(text);
    found.push_back(reader.position());
  }
  EXPECT_EQ(texts, expected);
  EXPECT_EQ(found, positions);
  EXPECT_THAT(reader.counts().skipped,
              ElementsAre(Pair("blank line", 3), Pair("invalid JSON", 3), Pair("messages not rendered", 3),
                          Pair("missing field", 3), Pair("unreadable messages", 6)));
  source.on_bad_record = BadRecord::kFail;
  DocumentReader strict(source, &chat);
  std::string text;
  for (int i = 0; i < 7; ++i) ASSERT_TRUE(strict.next(text));
  EXPECT_THAT(message_of<DataError>([&] { strict.next(text); }),
              AllOf(HasSubstr("a.jsonl:8: messages not rendered: found "), HasSubstr("no tools")));
}

TEST(Readers, TakeMessagesInTheFormOfShareGpt) {
  const TemporaryFolder folder;
  const ChatTemplate chat = chat_template_in(folder);
  const auto text_of = [&](const std::string& messages) {
    const TextSource source{
        .name = "s", .paths = {folder.write("a.jsonl", messages + "\n")}, .messages_field = "conversations"};
    std::string text;
    DocumentReader(source, &chat).next(text);
    return text;
  };
  EXPECT_EQ(text_of(R"({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, )"
                    R"({"from": "gpt", "value": "a"}, {"from": "user", "value": "p", "weight": 1}]})"),
            "<s>[system] s\n[user] q\n[assistant] a\n[user] p\n");
  EXPECT_THAT(message_of<DataError>([&] { text_of(R"({"conversations": [{"from": "observation", "value": "t"}]})"); }),
              HasSubstr("no tools"))
      << "the role is tool";
  for (const char* bad : {R"({"from": "human"})", R"({"from": 1, "value": "a"})", R"({"value": "a"})"})
    EXPECT_THAT(message_of<DataError>([&] { text_of(fmt::format("{{\"conversations\": [{}]}}", bad)); }),
                HasSubstr("message 1 without a \"role\""))
        << bad;
  EXPECT_THAT(message_of<DataError>([&] { text_of(R"({"conversations": [{"from": "human", "value": 1}]})"); }),
              HasSubstr("message 1 (user) with"));
}

TEST(OptionProblems, NameOptionsThatContradictEachOther) {
  const auto problems = [](const TextSource& source) {
    std::string text;
    for (const SourceProblem& problem : option_problems(source)) text += problem.key + ": " + problem.text + "\n";
    return text;
  };
  EXPECT_EQ(problems({.name = "s"}), "");
  EXPECT_EQ(problems({.name = "s", .format = "jsonl", .text_field = "a"}), "");
  EXPECT_EQ(problems({.name = "s", .format = "text", .txt_record = TxtRecord::kLine}), "");
  EXPECT_THAT(problems({.name = "s", .text_field = "a", .text_template = "{a}"}),
              HasSubstr("template: found together with text_field"));
  EXPECT_THAT(problems({.name = "s", .text_template = "{a}", .messages_field = "m"}),
              HasSubstr("messages_field: found together with template"));
  EXPECT_EQ(problems({.name = "s", .messages_field = "m", .train_on = TrainOn::kAssistant}), "");
  EXPECT_THAT(problems({.name = "s", .train_on = TrainOn::kAssistant}),
              HasSubstr("train_on: found assistant without messages_field"));
  EXPECT_THAT(problems({.name = "s", .text_template = "{a"}), HasSubstr("template: found a single {"));
  EXPECT_THAT(problems({.name = "s", .format = "csv", .txt_record = TxtRecord::kLine}),
              HasSubstr("txt_record: found together with format: csv"));
  EXPECT_THAT(problems({.name = "s", .format = "text", .text_field = "a"}),
              HasSubstr("text_field: found together with format: text"));
}

TEST(TextSource, FingerprintFollowsTheOptionsThatChangeDocuments) {
  const TemporaryFolder folder;
  const auto a = folder.write("a.jsonl", "{\"text\":\"a\"}\n");
  const std::string base = source_fingerprint(one(a));
  EXPECT_EQ(source_fingerprint({.name = "s", .paths = {a}, .format = "jsonl", .text_field = "text"}), base);
  EXPECT_NE(source_fingerprint({.name = "s", .paths = {a}, .format = "text"}), base);
  EXPECT_NE(source_fingerprint({.name = "s", .paths = {a}, .text_field = "answer"}), base);
  EXPECT_NE(source_fingerprint(with_template(a, "{text}")), base);
  EXPECT_NE(source_fingerprint(with_template(a, "{text}")), source_fingerprint(with_template(a, "{text} ")));
  const TextSource chat{.name = "s", .paths = {a}, .messages_field = "text"};
  TextSource answers = chat;
  answers.train_on = TrainOn::kAssistant;
  EXPECT_NE(source_fingerprint(chat), base);
  EXPECT_NE(source_fingerprint(answers), source_fingerprint(chat));
  const auto b = folder.write("b.ndjson", "{\"text\":\"a\"}\n");
  std::filesystem::last_write_time(b, std::filesystem::last_write_time(a));
  EXPECT_EQ(source_fingerprint(one(b)), base);
}

TEST(TextSource, NoticesAFileThatChangesWhileItIsRead) {
  const TemporaryFolder folder;
  for (const char* name : {"a.txt", "a.jsonl", "a.csv", "a.json"}) {
    const auto path = folder.write(name, "{\"text\": \"a\"}\n{\"text\": \"a\"}\n");
    DocumentReader reader(
        {.name = "s", .paths = {path}, .txt_record = TxtRecord::kLine, .on_bad_record = BadRecord::kSkip});
    std::ofstream(path, std::ios::app) << "{\"text\": \"b\"}\n";
    std::string text;
    EXPECT_THAT(message_of<DataError>([&] {
                  while (reader.next(text)) {
                  }
                }),
                HasSubstr(path + ": has changed while it was read"));
  }
}

TEST(TextSource, NoticesAFileThatIsCutShortWhileItIsRead) {
  const TemporaryFolder folder;
  std::string lines = "{\"text\": \"a\"}", array = "[{\"text\": \"a\"}", rows = "text\n\"a\"";
  while (rows.size() < 1'000'000) {
    lines += "\n{\"text\": \"a\"}";
    array += ", {\"text\": \"a\"}";
    rows += "\n\"a\"";
  }
  for (const auto& [name, text] :
       {std::pair("a.jsonl", lines), {"a.json", array + "]"}, {"a.csv", rows}, {"a.jsonl.gz", lines}}) {
    const auto path = folder.write(name, text);
    DocumentReader reader(one(path));
    std::string found;
    ASSERT_TRUE(reader.next(found));
    std::filesystem::resize_file(path, name == std::string("a.jsonl.gz") ? 10 : 700'001);
    EXPECT_THAT(message_of<DataError>([&] {
                  while (reader.next(found)) {
                  }
                }),
                HasSubstr(path + ": has changed while it was read"))
        << name;
  }
}

TEST(TextSource, NoticesTokenFilesThatChangeWhileTheyAreRead) {
  const TemporaryFolder folder;
  MegatronWriter writer(folder / "ids", 256, 0);
  for (int i = 0; i < 3; ++i) writer.add(bytes_of("abc"), 3);
  writer.finish();
  for (const char* file : {"ids.bin", "ids.idx"}) {
    TextEncoder encoder = byte_encoder();
    encoder.text_of = [&](std::span<const std::int32_t> ids) {
      std::filesystem::last_write_time(folder / file, std::filesystem::file_time_type::clock::now());
      return std::string(ids.size(), 'a');
    };
    EXPECT_THAT(message_of<DataError>([&] { tokenize({.name = "s", .paths = {folder / "ids"}}, encoder); }),
                HasSubstr(folder / file + ": has changed while it was read"));
  }
}

}  // namespace
}  // namespace adept::data
