// Tokens, their kinds and their merges, as a GGUF file has them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "adept/io/gguf.h"

namespace adept::model {

/// tokenizer.ggml.token_type, with llama.cpp's numbers.
enum class GgufTokenType : std::int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

/// The tokens of the file (which owns their text), by id.
struct GgufVocabulary {
  std::vector<std::string_view> tokens;
  std::shared_ptr<const std::string> blanks;  ///< text of the tokens whose spelling differs from the file
  std::vector<GgufTokenType> types;
  std::unordered_map<std::string_view, std::int64_t> ids;
  std::optional<std::int64_t> bos, eos, unk, pad;

  std::int64_t size() const { return std::ssize(types); }
  std::string_view token(std::int64_t id) const { return tokens[static_cast<std::size_t>(id)]; }
  /// Control and unknown tokens, and user-defined ones that the file names as BOS, EOS, padding or unknown. A normal
  /// token is never special, whatever the file names it: some name token 0, "!", as unknown, and text has it too.
  bool is_special(std::int64_t id) const;
  /// "[PAD49152]" and the like, which converters invent for rows of the embedding that have no token.
  bool is_filler(std::int64_t id) const;
};

/// Reads tokenizer.ggml.tokens, token_type and the ids of special tokens. Adds a problem where there are none, more
/// than `vocab_size`, duplicates, unknown kinds, or ids out of range.
///
/// User-defined tokens of a SentencePiece model that are all blanks become "▁▁" again, as the model has them, where no
/// blank is put before the text: llama.cpp's converter writes "  ", as it looks for them before it replaces blanks.
GgufVocabulary read_vocabulary(const io::GgufFile& file, std::int64_t vocab_size, std::vector<std::string>& problems);

/// Adds problems unless the byte tokens are the 256 bytes, each by the name under which it is looked up, "<0x0A>".
void check_byte_tokens(const GgufVocabulary& vocabulary, std::vector<std::string>& problems);

/// tokenizer.ggml.merges as they are ("Ġ t"), checked: two parts that are tokens, as is what they make.
std::vector<std::string> read_merges(const io::GgufFile& file, const GgufVocabulary& vocabulary,
                                     std::vector<std::string>& problems);

/// The merges that a SentencePiece BPE model implies: each normal or user-defined token is made from any two of these
/// that spell it. User-defined tokens go first, by id (their scores in GGUF are invented), then the higher
/// tokenizer.ggml.scores. The order of transformers' generate_merges.
std::vector<std::string> merges_from_scores(const io::GgufFile& file, const GgufVocabulary& vocabulary,
                                            std::vector<std::string>& problems);

}  // namespace adept::model
