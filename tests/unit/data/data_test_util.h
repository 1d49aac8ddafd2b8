// Small sources of text and datasets for the tests of adept::data.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/random.h"
#include "adept/data/store/token_store.h"
#include "adept/data/text_encoder.h"
#include "adept/data/text_source.h"
#include "adept/data/token_dataset.h"
#include "tests/support/document_ids.h"

namespace adept::data {

/// A folder of the test's own, removed with all in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            ("adept_" + std::string(test->test_suite_name()) + "_" + test->name() + "_" + std::to_string(getpid()));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(std::string_view name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

  /// Writes a file, and the folders above it; compressed if its name ends in .gz or .zst. Returns its path.
  std::string write(std::string_view name, std::string_view text) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    if (name.ends_with(".gz")) {
      gzFile out = gzopen(file.c_str(), "wb");
      EXPECT_EQ(gzwrite(out, text.data(), static_cast<unsigned>(text.size())), static_cast<int>(text.size()));
      gzclose(out);
    } else if (name.ends_with(".zst")) {
      std::string frame(ZSTD_compressBound(text.size()), '\0');
      frame.resize(ZSTD_compress(frame.data(), frame.size(), text.data(), text.size(), 3));
      std::ofstream(file, std::ios::binary) << frame;
    } else {
      std::ofstream(file, std::ios::binary) << text;
    }
    return file.string();
  }

 private:
  std::filesystem::path path_;
};

/// The documents of a source.
inline std::vector<std::string> read_all(const TextSource& source, SourceCounts* counts = nullptr) {
  DocumentReader reader(source);
  std::vector<std::string> texts;
  for (std::string text; reader.next(text);) texts.push_back(text);
  if (counts != nullptr) *counts = reader.counts();
  return texts;
}

inline TextSource source_at(std::vector<std::string> paths) { return {.name = "s", .paths = std::move(paths)}; }

/// A function from text to ids as TextEncoder has it.
template <typename Function>
auto handing_over(Function ids_of) {
  return [ids_of](std::string_view text, IdSink sink) { sink(ids_of(text)); };
}

inline std::vector<std::int32_t> bytes_of(std::string_view text) {
  std::vector<std::int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

/// One id per byte, of a vocabulary of 256.
inline TextEncoder byte_encoder() {
  return {.encode = handing_over(bytes_of), .vocab_size = 256, .fingerprint = "bytes"};
}

/// Documents of the given lengths whose tokens are first_id, first_id + 1, ...: each token of the dataset is another
/// id.
inline TokenDataset counting_dataset(const std::string& name, const std::vector<std::int64_t>& lengths,
                                     std::int32_t first_id = 1) {
  std::vector<std::vector<std::int32_t>> documents;
  std::int32_t id = first_id;
  for (const std::int64_t length : lengths) {
    documents.emplace_back();
    for (std::int64_t i = 0; i < length; ++i) documents.back().push_back(id++);
  }
  std::vector<std::int64_t> bytes;
  for (const std::int64_t length : lengths) bytes.push_back(3 * length);
  return TokenDataset(DatasetInfo{.name = name, .vocab_size = 1'000'000, .counts = {}}, documents, bytes);
}

template <typename Exception, typename Function>
std::string message_of(const Function& function) {
  try {
    function();
  } catch (const Exception& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

/// Writes a dataset that is in memory into a store.
inline TokenDataset write_store(const std::filesystem::path& folder, const TokenDataset& dataset,
                                std::int64_t shard_bytes = StoreOptions().shard_bytes) {
  return build_store(folder, dataset.info(), {.shard_bytes = shard_bytes}, [&](StoreWriter& writer) {
    for (std::int64_t i = 0; i < dataset.num_documents(); ++i)
      writer.add(test::document_ids(dataset, i), dataset.document_bytes(i), dataset.untrained(i));
    return dataset.info();
  });
}

/// Everything but where it is.
inline void expect_equal(const TokenDataset& a, const TokenDataset& b) {
  EXPECT_EQ(a.fingerprint(), b.fingerprint());
  EXPECT_EQ(a.name(), b.name());
  EXPECT_EQ(a.vocab_size(), b.vocab_size());
  EXPECT_EQ(a.info().source_fingerprint, b.info().source_fingerprint);
  EXPECT_EQ(a.info().tokenizer_fingerprint, b.info().tokenizer_fingerprint);
  EXPECT_EQ(a.counts(), b.counts());
  EXPECT_EQ(a.info().skipped, b.info().skipped);
  ASSERT_EQ(a.num_documents(), b.num_documents());
  EXPECT_EQ(a.num_tokens(), b.num_tokens());
  for (std::int64_t i = 0; i < a.num_documents(); ++i) {
    EXPECT_EQ(test::document_ids(a, i), test::document_ids(b, i)) << i;
    EXPECT_EQ(a.last_token(i), b.last_token(i)) << i;
    EXPECT_EQ(a.document_bytes(i), b.document_bytes(i)) << i;
    EXPECT_EQ(a.untrained(i), b.untrained(i)) << i;
  }
}

/// JSON lines of texts of 0 to 59 letters.
inline std::string many_lines(int count) {
  std::string lines;
  for (int i = 0; i < count; ++i)
    lines += "{\"text\": \"" +
             std::string(random_bits(3, RandomStream::kSampling, static_cast<std::uint64_t>(i)) % 60,
                         static_cast<char>('a' + i % 26)) +
             "\"}\n";
  return lines;
}

}  // namespace adept::data
