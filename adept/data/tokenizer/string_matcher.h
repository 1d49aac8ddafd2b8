// Leftmost-longest search for a set of strings, in linear time for any strings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace adept::data::tok {

/// An Aho-Corasick automaton over the reversed strings: running from the end of the text, it finds at each byte the
/// longest string that begins there.
class StringMatcher {
 public:
  struct Match {
    std::size_t begin;
    std::size_t end;
    std::int32_t value;
  };

  /// `text` must not be empty. Add each text at most once.
  void add(std::string_view text, std::int32_t value);
  /// Call after the last add().
  void prepare();
  bool empty() const { return values_.size() == 1; }

  /// Non-overlapping matches of one text, from start to end.
  class Matches {
   public:
    Matches(const StringMatcher& matcher, std::string_view text) : matcher_(matcher), text_(text) {}
    bool next(Match& match);

   private:
    void scan_block();
    const StringMatcher& matcher_;
    std::string_view text_;
    std::size_t scanned_ = 0;          // everything before was searched
    std::size_t from_ = 0;             // the end of the match before
    std::vector<Match> candidates_{};  // the longest match at each place of the block, the last place first
  };

 private:
  std::uint32_t child(std::uint32_t node, char byte) const;

  std::unordered_map<std::uint64_t, std::uint32_t> children_;  // (node << 8 | byte) -> node; 0 is the root
  std::vector<std::int32_t> values_ = {-1};                    // of each node, or -1
  std::vector<std::uint32_t> lengths_ = {0};                   // of the path to each node
  std::vector<std::uint64_t> parents_ = {0};                   // as in children_
  std::vector<std::uint32_t> suffixes_;                        // the longest proper suffix that is a node
  std::vector<std::uint32_t> longest_;                         // the longest suffix, itself included, with a value
  std::size_t max_length_ = 0;
  bool last_bytes_[256] = {};
};

}  // namespace adept::data::tok
