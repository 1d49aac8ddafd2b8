#include "adept/io/companion_files.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "tests/support/reads.h"
#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

namespace fs = std::filesystem;

using adept::test::Says;
using test::data_error;
using test::TemporaryDirectory;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class CompanionFiles : public testing::Test {
 protected:
  CompanionFiles() {
    fs::create_directories(from());
    fs::create_directories(to());
  }
  fs::path from() const { return directory_ / "from"; }
  fs::path to() const { return directory_ / "to"; }

  void write(const std::string& name, const std::string& text = "x") const {
    fs::create_directories((from() / name).parent_path());
    test::write(from() / name, text);
  }

  // All files below `to`, relative, and what was said.
  std::set<std::string> copied() const {
    copy_companion_files(from(), to());
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(to()))
      if (!entry.is_directory()) names.insert(entry.path().lexically_relative(to()).string());
    return names;
  }

  const TemporaryDirectory directory_;
};

TEST_F(CompanionFiles, EverythingIsCopiedByteForByte) {
  test::write(directory_ / "blob", "{ \"a\" :1.0}\r\n");
  fs::create_symlink("../blob", from() / "tokenizer.json");  // as the hub's cache has it
  const std::set<std::string> names = {"generation_config.json",
                                       "tokenizer.model",
                                       "chat_template.jinja",
                                       "additional_chat_templates/tool_use.jinja",
                                       "additional_chat_templates/deep/er.jinja",
                                       "preprocessor_config.json",
                                       "video_preprocessor_config.json",
                                       "vocab.txt",
                                       kAddedTokensRecord,
                                       "a tokenizer of tomorrow.xyz",
                                       "LICENSE"};
  for (const std::string& name : names) write(name, std::string("\0\x01\xff", 3) + name);
  std::set<std::string> expected = names;
  expected.insert("tokenizer.json");
  EXPECT_EQ(copied(), expected);
  for (const std::string& name : names) EXPECT_EQ(test::read(to() / name), std::string("\0\x01\xff", 3) + name) << name;
  EXPECT_EQ(test::read(to() / "tokenizer.json"), "{ \"a\" :1.0}\r\n");
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(to() / "tokenizer.json")));
}

TEST_F(CompanionFiles, WeightsConfigurationsRecordsAndHiddenFilesAreNot) {
  for (const char* name : {"config.json",
                           "model.safetensors",
                           "model-00001-of-00002.safetensors",
                           "model.safetensors.index.json",
                           "pytorch_model.bin",
                           "pytorch_model.bin.index.json",
                           "consolidated.00.pth",
                           "optimizer.pt",
                           "model.Q4.gguf",
                           "tf_model.h5",
                           "flax_model.msgpack",
                           "model.onnx",
                           "MODEL.ONNX_DATA",
                           "adapter_config.json",
                           "adapter_model.safetensors",
                           "adept_expansion.json",
                           "adept_training.json",
                           "adept_dial.json",
                           "README.md",
                           "domain.tokens",
                           "runs/events.out.tfevents.1.host",
                           ".gitattributes",
                           ".cache/huggingface/x",
                           ".git/config"})
    write(name);
  write("tokenizer.json");
  EXPECT_EQ(copied(), std::set<std::string>{"tokenizer.json"});
}

TEST_F(CompanionFiles, AFolderWithAnotherModelIsLeftOutAndNamed) {
  write("onnx/model.onnx");
  write("onnx/notes.txt");
  write("original/params.json");
  write("original/consolidated.00.pth");
  write("1_Pooling/config.json");
  write("checkpoint-500/tokenizer.json");
  write("checkpoint-500/model.safetensors");
  write("templates/a.jinja");
  testing::internal::CaptureStdout();
  EXPECT_EQ(copied(), std::set<std::string>{"templates/a.jinja"});
  const std::string said = testing::internal::GetCapturedStdout();
  EXPECT_THAT(
      said,
      Says("/from: not copied ...1_Pooling (another model), checkpoint-500 (another model), onnx (another model), "
           "original (another model)"));
  testing::internal::CaptureStdout();
  copied();
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "") << "once";
}

TEST_F(CompanionFiles, WhatIsTooLargeOrNoFileIsLeftOutAndNamed) {
  write("corpus.jsonl");
  fs::resize_file(from() / "corpus.jsonl", 100'000'001);  // a hole, no bytes on the disk
  for (int i = 0; i < 1001; ++i) write(fmt::format("many/{}.txt", i));
  write("data/a.txt");
  write("data/b.txt");
  for (const char* name : {"data/a.txt", "data/b.txt"}) fs::resize_file(from() / name, 60'000'000);
  write("a/b/c/d/e/f.txt");
  ASSERT_EQ(::mkfifo((from() / "pipe").c_str(), 0600), 0);
  fs::create_directory_symlink(".", from() / "loop");
  write("tokenizer.json");
  testing::internal::CaptureStdout();
  EXPECT_EQ(copied(), std::set<std::string>{"tokenizer.json"});
  EXPECT_THAT(testing::internal::GetCapturedStdout(),
              AllOf(HasSubstr("corpus.jsonl (100000001 bytes)"), HasSubstr("many (1001 files, 1001 bytes)"),
                    HasSubstr("data (2 files, 120000000 bytes)"), HasSubstr("a/b/c/d/e (too deep)"),
                    HasSubstr("pipe (not a regular file)"), HasSubstr("loop (a link to a folder)")));
}

TEST_F(CompanionFiles, AnOutputInsideTheModelIsNotCopiedIntoItself) {
  write("tokenizer.json");
  write("run/config.yaml");
  const fs::path inside = from() / "run" / "expanded";
  fs::create_directories(inside);
  copy_companion_files(from(), inside);
  EXPECT_EQ(test::names_in(inside), std::set<std::string>{"tokenizer.json"});
}

TEST_F(CompanionFiles, ABrokenLinkIsReportedAndNotTakenForAbsent) {
  fs::create_symlink("../none", from() / "tokenizer.json");
  EXPECT_THAT(data_error([&] { copy_companion_files(from(), to()); }),
              Says("/from/tokenizer.json: ...link to ../none...not exist"));
}

}  // namespace
}  // namespace adept::io
