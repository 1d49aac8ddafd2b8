// The BPE model of tokenizer.json: vocabulary, merges and the handling of unknown characters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/data/tokenizer/json_field.h"

namespace adept::data::tok {

/// Upper limit of ids: more rows than any embedding, and few enough for a table of all ids.
inline constexpr std::int64_t kMaxTokenId = (1 << 24) - 1;

/// Finds strings without copying them.
struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using TokenIds = std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>>;

/// (left id, right id) -> (rank, merged id); open addressing, built once.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank;
    std::int32_t id;
  };
  explicit MergeTable(std::size_t expected = 0);
  void set(std::int32_t left, std::int32_t right, Merge merge);
  const Merge* find(std::int32_t left, std::int32_t right) const;

 private:
  struct Slot {
    std::uint64_t key;
    Merge merge;
  };
  void grow();
  std::vector<Slot> slots_;
  std::size_t used_ = 0;
};

/// Buffers ids and passes them on, a few thousand at a time.
class IdBuffer {
 public:
  using Sink = FunctionRef<void(std::span<const std::int32_t>)>;
  explicit IdBuffer(Sink sink) : sink_(sink) { ids_.reserve(2 * kFull); }
  std::vector<std::int32_t>& ids() { return ids_; }
  void flush_if_full() {
    if (ids_.size() >= kFull) flush();
  }
  /// Passes the ids on if `more` would fill the buffer; whether it did.
  bool make_room(std::size_t more) {
    if (ids_.size() + more < kFull) return false;
    flush();
    return true;
  }
  void flush() {
    sink_(ids_);
    ids_.clear();
  }

 private:
  static constexpr std::size_t kFull = 4096;
  Sink sink_;
  std::vector<std::int32_t> ids_;
};

/// Working memory of one thread for merging, and its cache of short pieces. Bounded.
struct MergeScratch {
  struct Symbol {
    std::int32_t id;
    std::int32_t previous;
    std::int32_t next;
    bool removed;
  };
  struct Candidate {
    std::uint32_t rank;
    std::int32_t position;
    std::int32_t id;
  };
  std::vector<std::int32_t> initial;  // ids of characters, before any merge
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::string buffer;
  struct Cached {
    std::uint32_t begin;
    std::uint32_t size;
  };
  std::unordered_map<std::string, Cached, StringHash, std::equal_to<>> cache;
  std::vector<std::int32_t> cached_ids;
};

class BpeModel {
 public:
  /// Reads `model`. Throws DataError with the path of the entry at fault.
  explicit BpeModel(const JsonField& model);

  /// Appends the ids of one piece (well-formed UTF-8): its characters, merged by rank in O(n log n). A long piece is
  /// merged in windows, in bounded memory, with the same ids: see merge_in_windows.
  /// Throws DataError if the unknown token is needed and is not in the vocabulary; InterruptedError after a signal.
  void tokenize(std::string_view piece, MergeScratch& scratch, IdBuffer& ids) const;
  /// The same for a piece that the caller caches: it is neither looked up in the cache of `scratch` nor added to it.
  void tokenize_uncached(std::string_view piece, MergeScratch& scratch, IdBuffer& ids) const;

  std::size_t size() const { return ids_.size(); }
  std::optional<std::int32_t> id_of(std::string_view token) const;
  /// nullptr if no token has this id.
  const std::string* token_of(std::int32_t id) const;
  std::int32_t max_id() const { return static_cast<std::int32_t>(tokens_.size()) - 1; }

 private:
  void read_vocabulary(const JsonField& vocab);
  void read_merges(const JsonField& merges);
  void prepare_characters();
  /// Progress of reading the characters of a piece.
  struct Reading {
    std::size_t at = 0;
    std::optional<std::int32_t> pending{};  ///< an unknown token that may include the next character
  };
  void read_characters(std::string_view piece, Reading& reading, MergeScratch& scratch, std::size_t most) const;
  void add_unknown(std::string_view text, Reading& reading, std::vector<std::int32_t>& ids) const;
  std::int32_t unknown_id() const;
  void merge(MergeScratch& scratch, std::size_t first) const;
  void merge_few(std::vector<std::int32_t>& ids) const;
  void merge_in_windows(std::string_view piece, MergeScratch& scratch, IdBuffer& ids) const;

  std::string where_;
  TokenIds ids_;
  std::vector<const std::string*> tokens_;  // by id; they point into ids_
  MergeTable merges_;
  std::vector<std::int32_t> low_characters_;  // id of each code point below kLowCharacters, or -1
  std::vector<std::int32_t> byte_tokens_;     // id of <0x00> ... <0xFF>, or -1
  std::optional<std::string> unknown_token_;
  std::string continuing_prefix_;
  std::string word_suffix_;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace adept::data::tok
