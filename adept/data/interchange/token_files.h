// Sources that are tokens already: token stores, and files that other programs tokenized.
//
//     Megatron-Core  PREFIX.bin and PREFIX.idx   a path: PREFIX, or one of the two files
//     datatrove      NAME.ds and NAME.ds.index   a path: a file, a folder or a glob of them
//     token store    a folder with store.json    a path: the folder
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/core/progress.h"
#include "adept/data/options.h"
#include "adept/data/text_encoder.h"
#include "adept/data/token_sink.h"

namespace adept::data {

enum class TokenFormat { kStore, kMegatron, kDatatrove };

struct TokenFiles {
  TokenFormat format;
  std::vector<std::filesystem::path> parts;  ///< the folder of a store; a .bin or .ds file each
  std::vector<std::filesystem::path> files;  ///< all that are read
};

/// The files of a source of tokens; nothing for text. Throws ConfigError for a source that mixes tokens with text or
/// several formats, that has several stores, or options that apply to text; DataError for one without its index, and
/// for a store that is not complete.
std::optional<TokenFiles> find_token_files(const TextSource& source);

/// Documents of another program. Ids may be any numbers.
class TokenFileReader {
 public:
  virtual ~TokenFileReader() = default;
  virtual std::int64_t num_documents() const = 0;
  /// Bytes of the ids of documents 0 .. i-1.
  virtual std::int64_t bytes_before(std::int64_t i) const = 0;
  /// Passes on the ids of document i, in parts.
  virtual void read(std::int64_t i, FunctionRef<void(std::span<const std::int64_t>)> sink) const = 0;
  /// None of an empty document.
  virtual std::optional<std::int64_t> last_id(std::int64_t i) const = 0;
  virtual const std::filesystem::path& path() const = 0;
};

/// They check sizes and boundaries. Throw DataError with the file, what was found and what was expected.
std::unique_ptr<TokenFileReader> open_megatron(const std::filesystem::path& bin);
std::unique_ptr<TokenFileReader> open_datatrove(const std::filesystem::path& ds);

/// Reads the documents after `place` (null: all) into a sink, with the length of their text by decoding on several
/// threads, and completes `info`. Documents without ids are counted as skipped. Throws DataError, with file and
/// document, for an id outside the encoder's vocabulary, and if the documents end in a special token that is no end
/// token of the encoder's model.
void read_token_files(const TokenFiles& files, const TextEncoder& encoder, int num_threads, const Json& place,
                      Progress& progress, TokenSink& sink, DatasetInfo& info);

/// Opens a store as a source. Throws DataError if its ids mean other tokens than the encoder's, are outside its
/// vocabulary, or its EOS is another.
TokenDataset open_store_as(const std::filesystem::path& folder, const TextSource& source, const TextEncoder& encoder);

}  // namespace adept::data
