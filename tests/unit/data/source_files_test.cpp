// Which files a source reads: paths, folders, globs, lists and splits.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include "adept/core/error.h"
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

std::vector<std::string> names_of(const TextSource& source, const std::string& root) {
  std::vector<std::string> names;
  for (const fs::path& file : find_files(source).files) names.push_back(fs::relative(file, root).string());
  return names;
}

TEST(SourceFiles, FindsFilesOfAFolderSortedAndCountsTheOthers) {
  const TemporaryFolder folder;
  for (const char* name : {"d/b.txt", "d/a.jsonl", "d/sub/c.txt.gz", "d/sub/deep/z.jsonl.gz", "d/readme.md",
                           "d/data.xlsx.gz", "d/LICENSE", "d/x.yaml", "d/.hidden.txt", "d/.git/y.txt"})
    folder.write(name, "x");
  fs::create_symlink("nowhere.txt", folder / "d/broken.txt");
  const TextSource source = source_at({folder / "d"});
  EXPECT_THAT(names_of(source, folder / "d"), ElementsAre("a.jsonl", "b.txt", "sub/c.txt.gz", "sub/deep/z.jsonl.gz"));
  EXPECT_THAT(find_files(source).ignored,
              ElementsAre(Pair("README", 1), Pair("broken link", 1), Pair("file with extension .xlsx.gz", 1),
                          Pair("file with extension .yaml", 1), Pair("file without extension", 1),
                          Pair("hidden file or folder", 2)));
}

TEST(SourceFiles, ReadsEachFileOnce) {
  const TemporaryFolder folder;
  const auto a = folder.write("d/a.txt", "a"), b = folder.write("d/b.txt", "b");
  fs::create_directory_symlink(folder / "d", folder / "d/circle");
  fs::create_symlink(a, folder / "d/link.txt");
  const TextSource source = source_at({b, folder / "d", folder / "d/../d/a.txt"});
  EXPECT_THAT(read_all(source), ElementsAre("b", "a"));
  EXPECT_THAT(find_files(source).ignored, ElementsAre(Pair("file already listed", 3), Pair("folder already read", 1)));
}

TEST(SourceFiles, ExpandsGlobs) {
  const TemporaryFolder folder;
  for (const char* name : {"a1.txt", "a2.txt", "b1.jsonl", "n.rst", ".h.txt", "x/a3.txt", "x/y/a4.txt", "x/.z/a5.txt"})
    folder.write(name, "x");
  const auto glob = [&](const char* pattern) { return names_of(source_at({folder / pattern}), folder.path()); };
  EXPECT_THAT(glob("a*.txt"), ElementsAre("a1.txt", "a2.txt"));
  EXPECT_THAT(glob("a?.txt"), ElementsAre("a1.txt", "a2.txt"));
  EXPECT_THAT(glob("[!a]*"), ElementsAre("b1.jsonl", "x/a3.txt", "x/y/a4.txt")) << "a folder stands for its files";
  EXPECT_THAT(glob("*/a3.txt"), ElementsAre("x/a3.txt"));
  EXPECT_THAT(glob("**/a[1-4].txt"), ElementsAre("a1.txt", "a2.txt", "x/a3.txt", "x/y/a4.txt"));
  EXPECT_THAT(glob("x/**"), ElementsAre("x/a3.txt", "x/y/a4.txt"));
  EXPECT_THAT(glob(".*.txt"), ElementsAre(".h.txt"));
  EXPECT_THAT(glob("**/**/**/**/**/a4.txt"), ElementsAre("x/y/a4.txt"));
  const SourceFiles found = find_files(source_at({folder / "[an]*"}));
  EXPECT_THAT(found.files, testing::SizeIs(2));
  EXPECT_THAT(found.ignored, ElementsAre(Pair("file with extension .rst", 1)));
}

TEST(SourceFiles, TakesAnExistingFileWhoseNameLooksLikeAGlob) {
  const TemporaryFolder folder;
  folder.write("a[1].txt", "bracket");
  folder.write("a1.txt", "plain");
  EXPECT_THAT(read_all(source_at({folder / "a[1].txt"})), ElementsAre("bracket"));
}

TEST(SourceFiles, ListsEveryPathThatIsWrong) {
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

TEST(SourceFiles, ListsTheKindsOfTextOnlyWhereAKindIsAProblem) {
  const TemporaryFolder folder;
  folder.write("d/train.jsonl", "{}");
  folder.write("d/test.jsonl", "{}");
  for (const std::string& path : {folder / "d", folder / "gone.txt", "@" + (folder / "gone"), std::string("hf://a/b")})
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({path})); }),
                AllOf(HasSubstr("source \"s\": its text cannot be read:\n  "), Not(HasSubstr(".parquet"))))
        << path;
}

TEST(SourceFiles, SaysHowToDownloadWhatIsNotHere) {
  for (const char* path : {"https://huggingface.co/datasets/a/b/resolve/main/x.jsonl", "hf://datasets/a/b/*.parquet",
                           "s3://bucket/x.jsonl"})
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({path})); }),
                AllOf(HasSubstr(path + std::string(": is a URL; expected a local path")), HasSubstr("hf download ")));
  EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({"someone/something-20k"})); }),
              HasSubstr("someone/something-20k: does not exist. If it is a data set of the Hugging Face Hub"));
  const TemporaryFolder folder;
  for (const std::string& path : {folder / "a/b", std::string("nowhere/b.jsonl"), std::string("./nowhere/b")})
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({path})); }), Not(HasSubstr("Hub"))) << path;
}

TEST(SourceFiles, NamesTheMissingFileOfAMegatronDataset) {
  const TemporaryFolder folder;
  folder.write("a.bin", "x");
  folder.write("b.idx", "x");
  for (const auto& [prefix, there, missing] : {std::tuple("a", ".bin", ".idx"), {"b", ".idx", ".bin"}})
    for (const char* extension : {"", ".bin", ".idx"})
      EXPECT_THAT(
          message_of<ConfigError>([&] { find_files(source_at({folder / (std::string(prefix) + extension)})); }),
          HasSubstr("a Megatron-Core dataset consists of two files, and " + folder / (prefix + std::string(missing)) +
                    " is missing beside " + folder / (prefix + std::string(there))))
          << prefix << extension;
}

TEST(SourceFiles, TakesNoStoreThatIsNotComplete) {
  const TemporaryFolder folder;
  for (const bool has_progress : {true, false}) {
    folder.write("d/store/00000.tokens", "x");
    if (has_progress) folder.write("d/store/progress.json", "{\"text\": \"x\"}");
    EXPECT_THAT(message_of<DataError>([&] { find_files(source_at({folder / "d/store"})); }),
                AllOf(HasSubstr("d/store: is a token store that is not complete"), HasSubstr("adept tokenize")));
    folder.write("d/a.txt", "x");
    EXPECT_THAT(find_files(source_at({folder / "d"})).ignored, ElementsAre(Pair("token store", 1)));
    fs::remove_all(folder / "d");
  }
}

TEST(SourceFiles, SaysWhatToDoWithOtherFiles) {
  const TemporaryFolder folder;
  const std::pair<const char*, const char*> conversions[] = {
      {"a.jsonl.xz", "xz -dk "}, {"a.bz2", "bzip2 -dk "}, {"a.rst", "--format text"}, {"README", "--format text"}};
  for (const auto& [name, command] : conversions) {
    folder.write(std::string("d/") + name, "x");
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({folder / (std::string("d/") + name)})); }),
                AllOf(HasSubstr(command), HasSubstr(folder / (std::string("d/") + name)), HasSubstr(".jsonl")));
    EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({folder / "d"})); }),
                AllOf(HasSubstr("contains or matches no file of text, but "), HasSubstr(command)));
    fs::remove_all(folder / "d");
  }
}

TEST(SourceFiles, LeavesOutWhatThisProgramWrites) {
  const TemporaryFolder folder;
  for (const char* name : {"d/a.txt", "d/run/trainer_log.jsonl", "d/run/versions.json", "d/run/stages/probe.json",
                           "d/run/model/merges.txt", "d/model/config.json", "d/model/tokenizer.json",
                           "d/model/merges.txt", "d/config.json", "d/stages/b.txt"})
    folder.write(name, "x");
  const TextSource source = source_at({folder / "d"});
  EXPECT_THAT(names_of(source, folder / "d"), ElementsAre("a.txt", "config.json", "stages/b.txt"))
      << "a name alone says nothing";
  EXPECT_THAT(find_files(source).ignored, ElementsAre(Pair("folder of an adept run", 1), Pair("model folder", 1)));
  for (const char* glob : {"d/**/*.txt", "d/*", "d/*/*"})
    for (const std::string& name : names_of(source_at({folder / glob}), folder / "d"))
      EXPECT_THAT(name, testing::AnyOf("a.txt", "config.json", "stages/b.txt")) << glob;
  EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({folder / "d/run"})); }),
              HasSubstr("d/run: is a folder of an adept run"));
}

TEST(SourceFiles, RefusesToWriteWhereItReads) {
  const TemporaryFolder folder;
  folder.write("d/a.jsonl", "x");
  const TextSource source = source_at({folder / "d"}), glob = source_at({folder / "d/*"});
  const auto message = [](const TextSource& of, const std::string& out) {
    return message_of<ConfigError>([&] { check_not_read(of, out, "--out"); });
  };
  EXPECT_THAT(message(source, folder / "d"), HasSubstr("/d: is an input of the source \"s\""));
  EXPECT_THAT(message(source, folder / "d/sub/new.txt"), HasSubstr("the next run would read it as text"));
  EXPECT_THAT(message(glob, folder / "d/a.jsonl"),
              HasSubstr("/a.jsonl: matches " + folder.path() + "/d/*, an input of"));
  for (const char* pattern : {"d/*.txt", "d/**/*.txt", "*/new.txt", "**/*.txt", "./d/../d/n?w.txt"})
    EXPECT_THAT(message(source_at({folder / pattern}), folder / "d/new.txt"), HasSubstr("the next run would read it"))
        << pattern;
  for (const char* pattern : {"d/*.jsonl", "d/*/*.txt", "e/*", "d/old*.txt", "**/d/*/*"})
    check_not_read(source_at({folder / pattern}), folder / "d/new.txt", "--out");
  for (const char* out : {"d/result.yaml", "d/run", "e.txt", "dd/x.txt"}) check_not_read(source, folder / out, "--out");
}

TEST(SourceFiles, RefusesAFolderWhoseRecordsAGlobWouldRead) {
  const TemporaryFolder folder;
  folder.write("d/a.jsonl", "x");
  const auto check = [&](const char* pattern, const char* output) {
    check_not_read(source_at({folder / pattern}), folder / output, "output_dir", {"log.jsonl"});
  };
  for (const char* pattern : {"d/*.jsonl", "d/l*", "d/**/*.jsonl"})
    EXPECT_THAT(
        message_of<ConfigError>([&] { check(pattern, "d"); }),
        AllOf(HasSubstr("/d: will contain log.jsonl, which matches " + folder.path()), HasSubstr("another folder")))
        << pattern;
  for (const char* pattern : {"d/*.txt", "d/med*.jsonl", "*/*.jsonl", "**/*.jsonl", "d/a.jsonl"}) check(pattern, "d");
  for (const char* pattern : {"d/*.jsonl", "d/**/*.jsonl", "d/*/*.jsonl"}) check(pattern, "d/run");
}

TEST(SourceFiles, EndsGlobsThatGoInCircles) {
  const TemporaryFolder folder;
  folder.write("d/a.txt", "x");
  for (int i = 0; i < 8; ++i) fs::create_directory_symlink(folder / "d", folder / ("d/link" + std::to_string(i)));
  EXPECT_THAT(names_of(source_at({folder / "d/*/*/*/*/*/*/*/*/*/*/*/*/*.txt"}), folder / "d"), testing::SizeIs(1));
}

TEST(SourceFiles, ReadsTheFilesOfAList) {
  const TemporaryFolder folder;
  const auto a = folder.write("a.txt", "a"), b = folder.write("d/b.txt", "b"), c = folder.write("d/c.txt", "c");
  const auto list = folder.write("files.txt", c + "\r\n\n" + a + "\n" + folder.path() + "/d/*.txt");
  EXPECT_THAT(read_all(source_at({"@" + list})), ElementsAre("c", "a", "b"));
  folder.write("bad.txt", a + "\n" + folder.path() + "/gone.txt\n@other\n");
  EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({"@" + folder.path() + "/bad.txt"})); }),
              AllOf(HasSubstr("bad.txt:2: " + folder.path() + "/gone.txt: does not exist"),
                    HasSubstr("bad.txt:3: @other: is a list")));
  folder.write("empty.txt", "\n");
  EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({"@" + folder.path() + "/empty.txt"})); }),
              HasSubstr("is empty"));
  EXPECT_THAT(message_of<ConfigError>([&] { find_files(source_at({"@" + folder.path() + "/none.txt"})); }),
              HasSubstr("the list does not exist"));
  EXPECT_THAT(message_of<ConfigError>([&] { check_not_read(source_at({"@" + list}), list, "--out"); }),
              HasSubstr("is an input"));
  EXPECT_THAT(message_of<ConfigError>([&] { check_not_read(source_at({"@" + list}), a, "--out"); }),
              HasSubstr("is an input"));
}

std::vector<std::string> split_files(const TemporaryFolder& folder, const std::string& split,
                                     const std::string& path = "") {
  TextSource source = source_at({folder.path() + path});
  if (!split.empty()) source.split = split;
  std::vector<std::string> names;
  for (const auto& file : find_files(source).files)
    names.push_back(std::filesystem::relative(file, folder.path()).string());
  return names;
}

TEST(Splits, AreFoundByTheNamesOfFilesAndFolders) {
  using Names = std::vector<std::string>;
  const struct {
    Names train, test, other;
  } layouts[] = {
      {{"data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"},
       {"data/test-00000-of-00001.jsonl"},
       {"README.md"}},
      {{"train.csv"}, {"test.csv"}, {}},
      {{"train/a.json", "train/b.json"}, {"test/a.json"}, {"dataset_infos.json"}},
      {{"my_train-1.jsonl.gz"}, {"my_test-1.jsonl.gz"}, {}},
      {{"c4-train.00000-of-01024.json"}, {"c4-eval.00000-of-01024.json"}, {}},
  };
  for (const auto& [train, test, other] : layouts) {
    const TemporaryFolder folder;
    for (const Names& names : {train, test, other})
      for (const std::string& name : names) folder.write(name, "{\"text\": \"a\"}");
    EXPECT_EQ(split_files(folder, "train"), train);
    EXPECT_EQ(split_files(folder, "test"), test);
    EXPECT_THAT(message_of<ConfigError>([&] { split_files(folder, ""); }),
                AllOf(HasSubstr("has several splits: test, train. Choose one with split")));
    EXPECT_THAT(message_of<ConfigError>([&] { split_files(folder, "dev"); }),
                AllOf(HasSubstr("has no split dev; it has test, train")));
  }
}

TEST(Splits, OfAGlobAreAllReadWithAWarning) {
  const TemporaryFolder folder;
  for (const char* name : {"train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl", "b/one.jsonl", "b/two.jsonl"})
    folder.write(name, "{\"text\": \"a\"}");
  EXPECT_THAT(find_files(source_at({folder.path() + "/*.jsonl"})).warnings,
              ElementsAre(AllOf(HasSubstr("/*.jsonl: all of its splits are read: test, train."), HasSubstr("split"))));
  EXPECT_THAT(find_files(source_at({folder.path() + "/train*.jsonl"})).warnings, IsEmpty());
  EXPECT_THAT(find_files(source_at({folder.path() + "/b"})).warnings, IsEmpty());
  TextSource test = source_at({folder.path() + "/*.jsonl"});
  test.split = "test";
  EXPECT_THAT(find_files(test).warnings, IsEmpty());
}

TEST(Splits, WithAMissingShardGetAWarning) {
  const TemporaryFolder folder;
  for (const char* name :
       {"train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl", "test-00000-of-00001-3d4cd8309148a71f.jsonl",
        "c4/c4-train.00001-of-00002.json", "c4/c4-train.00003-of-00002.json"})
    folder.write(name, "{\"text\": \"a\"}");
  const auto warnings = [&](const char* path, const char* split) {
    TextSource source = source_at({folder.path() + path});
    source.split = split;
    return find_files(source).warnings;
  };
  EXPECT_THAT(warnings("/*", "train"),
              ElementsAre(HasSubstr("1 of 3 shards are missing, the first is train-00001-of-00003"),
                          HasSubstr("c4: 1 of 2 shards are missing, the first is c4-train.00000-of-00002")));
  EXPECT_THAT(warnings("", "test"), IsEmpty());
  EXPECT_THAT(find_files(source_at({folder.path() + "/train-00000-of-00003.jsonl"})).warnings, IsEmpty())
      << "it was asked for";
  folder.write("train-00001-of-00003.jsonl", "");
  EXPECT_THAT(warnings("/*.jsonl", "train"), IsEmpty());
}

TEST(Splits, MayHaveAnyNameInFrontOfAShard) {
  const TemporaryFolder folder;
  for (const char* name : {"data/train_sft-00000-of-00001-3d4cd8309148a71f.jsonl",
                           "data/train_gen-00000-of-00001.jsonl", "data/val-00000-of-00001.jsonl"})
    folder.write(name, "x");
  EXPECT_THAT(split_files(folder, "train_gen"), ElementsAre("data/train_gen-00000-of-00001.jsonl"));
  EXPECT_THAT(split_files(folder, "train_sft"), ElementsAre("data/train_sft-00000-of-00001-3d4cd8309148a71f.jsonl"));
  EXPECT_THAT(split_files(folder, "validation"), ElementsAre("data/val-00000-of-00001.jsonl"));
  EXPECT_THAT(split_files(folder, "train_gen", "/data/*"), ElementsAre("data/train_gen-00000-of-00001.jsonl"));
}

TEST(Splits, AreThoseThatTheDescriptionOfADataSetLists) {
  const TemporaryFolder folder;
  for (const char* name : {"wiki-part_a.arrow", "wiki-part_b-00000-of-00002.arrow", "wiki-part_b-00001-of-00002.arrow",
                           "cache-12345678.arrow"})
    folder.write(name, "x");
  folder.write("dataset_info.json", R"({"splits": {"part_a": {}, "part_b": {}}})");
  EXPECT_THAT(split_files(folder, "part_a"), ElementsAre("wiki-part_a.arrow"));
  EXPECT_THAT(split_files(folder, "part_b"), testing::SizeIs(2));
  EXPECT_THAT(message_of<ConfigError>([&] { split_files(folder, ""); }), HasSubstr("several splits: part_a, part_b"));
}

TEST(Splits, DoNotDivideTextFilesOrAFolderOfOneSplit) {
  const TemporaryFolder folder;
  for (const char* name : {"a/train.txt", "a/test.txt", "b/train-00000-of-00001.jsonl", "b/more.jsonl"})
    folder.write(name, "x");
  EXPECT_THAT(split_files(folder, "", "/a"), ElementsAre("a/test.txt", "a/train.txt"));
  EXPECT_THAT(split_files(folder, "", "/b"), ElementsAre("b/more.jsonl", "b/train-00000-of-00001.jsonl"));
  EXPECT_THAT(message_of<ConfigError>([&] { split_files(folder, "train", "/b/more.jsonl"); }),
              HasSubstr("split: found train, but no folder or glob"));
}

}  // namespace
}  // namespace adept::data
