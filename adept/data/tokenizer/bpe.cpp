#include "adept/data/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/data/tokenizer/unicode.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

constexpr char32_t kLowCharacters = 0x400;
constexpr std::size_t kWindow = std::size_t{1} << 15;  // symbols that are merged at a time
constexpr std::size_t kMaxCachedPiece = 64;
constexpr std::size_t kMaxCachedPieces = 1 << 16;
constexpr std::size_t kFewSymbols = 24;
constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

std::size_t hash_of_key(std::uint64_t key) {
  key *= 0x9E3779B97F4A7C15ULL;
  return static_cast<std::size_t>(key ^ key >> 32);
}

// A heap's top is its largest element: the lowest rank, then the leftmost position.
bool comes_later(const MergeScratch::Candidate& a, const MergeScratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

MergeTable::MergeTable(std::size_t expected) {
  std::size_t slots = 16;
  while (slots < expected * 2) slots *= 2;
  slots_.assign(slots, {kEmpty, {}});
}

void MergeTable::set(std::int32_t left, std::int32_t right, Merge merge) {
  if ((used_ + 1) * 2 > slots_.size()) grow();
  const std::uint64_t key = key_of(left, right);
  std::size_t i = hash_of_key(key) & (slots_.size() - 1);
  while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & (slots_.size() - 1);
  if (slots_[i].key == kEmpty) ++used_;
  slots_[i] = {key, merge};
}

void MergeTable::grow() {
  std::vector<Slot> old(slots_.size() * 2, {kEmpty, {}});
  old.swap(slots_);
  used_ = 0;
  for (const Slot& slot : old)
    if (slot.key != kEmpty)
      set(static_cast<std::int32_t>(slot.key >> 32), static_cast<std::int32_t>(slot.key & 0xFFFFFFFFU), slot.merge);
}

const MergeTable::Merge* MergeTable::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t key = key_of(left, right);
  std::size_t i = hash_of_key(key) & (slots_.size() - 1);
  while (slots_[i].key != kEmpty) {
    if (slots_[i].key == key) return &slots_[i].merge;
    i = (i + 1) & (slots_.size() - 1);
  }
  return nullptr;
}

BpeModel::BpeModel(const JsonField& model) : where_(model.where()) {
  model.check_keys({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                    "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const auto dropout = model.find("dropout")) {
    if (!dropout->json().is_number() || dropout->json().get<double>() != 0.0)
      dropout->fail(fmt::format(
          "is {}; this build supports null and 0, because tokenization must be deterministic. Set it to null.",
          dropout->json().dump()));
  }
  if (const auto unknown = model.find("unk_token")) unknown_token_ = unknown->as_string();
  if (const auto prefix = model.find("continuing_subword_prefix")) continuing_prefix_ = prefix->as_string();
  if (const auto suffix = model.find("end_of_word_suffix")) word_suffix_ = suffix->as_string();
  if (const auto fuse = model.find("fuse_unk")) fuse_unknown_ = fuse->as_bool();
  if (const auto fallback = model.find("byte_fallback")) byte_fallback_ = fallback->as_bool();
  if (const auto ignore = model.find("ignore_merges")) ignore_merges_ = ignore->as_bool();
  read_vocabulary(model.at("vocab"));
  read_merges(model.at("merges"));
  prepare_characters();
}

void BpeModel::read_vocabulary(const JsonField& vocab) {
  if (!vocab.json().is_object()) vocab.fail("expected an object of token: id.");
  ids_.reserve(vocab.json().size());
  std::int64_t highest = -1;
  for (const auto& [token, value] : vocab.json().items()) {
    throw_if_interrupted();
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(kMaxTokenId))
      vocab.fail(fmt::format("gives {} the id {}; expected an integer from 0 to {}. The file is corrupt.",
                             io::quote(token), value.dump(), kMaxTokenId));
    const auto id = value.get<std::int32_t>();
    ids_.emplace(token, id);
    highest = std::max<std::int64_t>(highest, id);
  }
  tokens_.assign(static_cast<std::size_t>(highest + 1), nullptr);
  for (const auto& [token, id] : ids_) {
    auto& place = tokens_[static_cast<std::size_t>(id)];
    if (place != nullptr)
      vocab.fail(fmt::format("gives the id {} to both {} and {}; ids must be unique.", id,
                             io::quote(std::min(*place, token)), io::quote(std::max(*place, token))));
    place = &token;
  }
}

void BpeModel::read_merges(const JsonField& merges) {
  const SortedJson& list = merges.json();
  const std::size_t count = merges.size();
  merges_ = MergeTable(count);
  const bool are_strings = count > 0 && list[0].is_string();
  std::uint32_t rank = 0;
  std::string joined;
  const auto fail = [&](std::size_t i, const std::string& problem) { merges.at(i).fail(problem); };
  for (std::size_t i = 0; i < count; ++i) {
    throw_if_interrupted();
    std::string_view left, right;
    if (are_strings) {
      if (!list[i].is_string()) fail(i, "is not a string, unlike those before it.");
      const std::string_view line = list[i].get_ref<const std::string&>();
      if (line.substr(0, 8) == "#version") continue;
      const std::size_t blank = line.find(' ');
      if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos)
        fail(i, fmt::format("is {}; expected two tokens separated by one space.", io::quote(line)));
      left = line.substr(0, blank);
      right = line.substr(blank + 1);
    } else {
      if (!list[i].is_array() || list[i].size() != 2 || !list[i][0].is_string() || !list[i][1].is_string())
        fail(i, "is not a pair of two strings.");
      left = list[i][0].get_ref<const std::string&>();
      right = list[i][1].get_ref<const std::string&>();
    }
    const auto id = [&](std::string_view token) {
      const auto found = id_of(token);
      if (!found) fail(i, fmt::format("requires the token {}, which model.vocab does not have.", io::quote(token)));
      return *found;
    };
    const auto left_id = id(left), right_id = id(right);
    if (right.size() < continuing_prefix_.size())
      fail(i, fmt::format("has {}, shorter than continuing_subword_prefix.", io::quote(right)));
    joined.assign(left).append(right.substr(continuing_prefix_.size()));
    merges_.set(left_id, right_id, {rank++, id(joined)});
  }
}

void BpeModel::prepare_characters() {
  low_characters_.assign(kLowCharacters, -1);
  for (char32_t c = 0; c < kLowCharacters; ++c) {
    std::string text;
    append_utf8(text, c);
    low_characters_[c] = id_of(text).value_or(-1);
  }
  byte_tokens_.assign(256, -1);
  for (unsigned byte = 0; byte < 256; ++byte) byte_tokens_[byte] = id_of(fmt::format("<0x{:02X}>", byte)).value_or(-1);
}

std::optional<std::int32_t> BpeModel::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* BpeModel::token_of(std::int32_t id) const {
  return id < 0 || static_cast<std::size_t>(id) >= tokens_.size() ? nullptr : tokens_[static_cast<std::size_t>(id)];
}

std::int32_t BpeModel::unknown_id() const {
  const auto id = id_of(*unknown_token_);
  if (!id)
    throw DataError("{}.unk_token is {}, which model.vocab does not have, and a character of the text requires it.",
                    where_, io::quote(*unknown_token_));
  return *id;
}

// As in `tokenizers`, an unknown token stays pending while bytes are emitted, and is appended later.
void BpeModel::add_unknown(std::string_view text, Reading& reading, std::vector<std::int32_t>& ids) const {
  if (byte_fallback_) {
    const bool all_known = std::all_of(text.begin(), text.end(),
                                       [&](char byte) { return byte_tokens_[static_cast<unsigned char>(byte)] >= 0; });
    if (all_known) {
      for (const char byte : text) ids.push_back(byte_tokens_[static_cast<unsigned char>(byte)]);
      return;
    }
  }
  if (!unknown_token_) return;
  if (reading.pending && fuse_unknown_) return;
  if (reading.pending) ids.push_back(*reading.pending);
  reading.pending = unknown_id();
}

// Appends the ids of characters to scratch.initial until it has `most` or the piece ends.
void BpeModel::read_characters(std::string_view piece, Reading& reading, MergeScratch& scratch,
                               std::size_t most) const {
  auto& ids = scratch.initial;
  auto& [at, pending] = reading;
  while (at < piece.size() && ids.size() < most) {
    const std::size_t start = at;
    const char32_t c = decode_utf8(piece, at);
    const bool has_prefix = start > 0 && !continuing_prefix_.empty();
    const bool has_suffix = at == piece.size() && !word_suffix_.empty();
    std::string_view text = piece.substr(start, at - start);
    std::optional<std::int32_t> id;
    if (has_prefix || has_suffix) {
      scratch.buffer.assign(has_prefix ? continuing_prefix_ : "").append(text).append(has_suffix ? word_suffix_ : "");
      text = scratch.buffer;
      id = id_of(text);
    } else if (c < kLowCharacters) {
      if (low_characters_[c] >= 0) id = low_characters_[c];
    } else {
      id = id_of(text);
    }
    if (!id) {
      throw_if_interrupted();  // a text of these alone may fill no window
      add_unknown(text, reading, ids);
      continue;
    }
    if (pending) ids.push_back(*pending);
    pending.reset();
    ids.push_back(*id);
  }
  if (at == piece.size() && pending) {
    ids.push_back(*pending);
    pending.reset();
  }
}

// Merges scratch.initial from `first` on: repeatedly joins the pair of lowest rank, the leftmost first. Uses a heap of
// candidates and skips outdated ones.
void BpeModel::merge(MergeScratch& scratch, std::size_t first) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  symbols.clear();
  for (std::size_t i = first; i < scratch.initial.size(); ++i) {
    const auto place = static_cast<std::int32_t>(i - first);
    symbols.push_back({scratch.initial[i], place - 1, place + 1, false});
  }
  if (!symbols.empty()) symbols.back().next = -1;
  heap.clear();
  const auto offer = [&](std::int32_t position) {
    const auto& left = symbols[static_cast<std::size_t>(position)];
    if (left.next < 0) return;
    const auto* merge = merges_.find(left.id, symbols[static_cast<std::size_t>(left.next)].id);
    if (merge == nullptr) return;
    heap.push_back({merge->rank, position, merge->id});
    std::push_heap(heap.begin(), heap.end(), comes_later);
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) offer(static_cast<std::int32_t>(i));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), comes_later);
    const auto top = heap.back();
    heap.pop_back();
    auto& left = symbols[static_cast<std::size_t>(top.position)];
    if (left.removed || left.next < 0) continue;
    auto& right = symbols[static_cast<std::size_t>(left.next)];
    const auto* merge = merges_.find(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;
    left.id = top.id;
    right.removed = true;
    left.next = right.next;
    if (right.next >= 0) symbols[static_cast<std::size_t>(right.next)].previous = top.position;
    if (left.previous >= 0) offer(left.previous);
    offer(top.position);
  }
}

// The same in place, for at most kFewSymbols ids: looks through all pairs for each merge.
void BpeModel::merge_few(std::vector<std::int32_t>& ids) const {
  constexpr MergeTable::Merge kNone = {~std::uint32_t{0}, -1};
  std::array<MergeTable::Merge, kFewSymbols> pairs;  // of each id with the next
  std::size_t count = ids.size();
  const auto pair_at = [&](std::size_t i) {
    const auto* merge = i + 1 < count ? merges_.find(ids[i], ids[i + 1]) : nullptr;
    return merge == nullptr ? kNone : *merge;
  };
  for (std::size_t i = 0; i < count; ++i) pairs[i] = pair_at(i);
  while (count > 1) {
    std::size_t lowest = 0;
    for (std::size_t i = 1; i + 1 < count; ++i)
      if (pairs[i].rank < pairs[lowest].rank) lowest = i;
    if (pairs[lowest].id < 0) break;
    ids[lowest] = pairs[lowest].id;
    --count;
    for (std::size_t i = lowest + 1; i < count; ++i) {
      ids[i] = ids[i + 1];
      pairs[i] = pairs[i + 1];
    }
    pairs[lowest] = pair_at(lowest);
    if (lowest > 0) pairs[lowest - 1] = pair_at(lowest - 1);
  }
  ids.resize(count);
}

// Merging a text equals merging its parts separately if and only if no merge crosses between them. This depends only on
// the tokens on both sides of the cut: their merges happen in the same order whatever follows. A window is therefore
// cut between two tokens, well before its end, and the next window starts there. If its first token equals the token
// after the cut, the two tokens were neighbors in one text without a merge between them, so the cut is valid. If not,
// text after the window had an effect that far back, and another cut is tried.
void BpeModel::merge_in_windows(std::string_view piece, MergeScratch& scratch, IdBuffer& out) const {
  struct Token {
    std::size_t begin;  // in symbols
    std::size_t end;
    std::int32_t id;
    bool operator==(const Token&) const = default;
  };
  const auto merged_from = [&](std::size_t first) {
    merge(scratch, first);
    std::vector<Token> tokens;
    for (std::size_t i = 0; i < scratch.symbols.size(); ++i) {
      if (scratch.symbols[i].removed) continue;
      if (!tokens.empty()) tokens.back().end = i;
      tokens.push_back({i, scratch.symbols.size(), scratch.symbols[i].id});
    }
    return tokens;
  };
  Reading reading;
  scratch.initial.clear();
  read_characters(piece, reading, scratch, kWindow);
  std::vector<Token> tokens = merged_from(0);
  while (reading.at < piece.size()) {
    throw_if_interrupted();
    bool is_cut = false;
    for (std::size_t share = tokens.size() * 3 / 4; share > 0 && !is_cut; share /= 2) {
      const Token behind = tokens[share];
      read_characters(piece, reading, scratch, behind.begin + kWindow);
      std::vector<Token> next = merged_from(behind.begin);
      if (next.front() != Token{0, behind.end - behind.begin, behind.id}) continue;
      for (std::size_t i = 0; i < share; ++i) out.ids().push_back(tokens[i].id);
      out.flush_if_full();
      scratch.initial.erase(scratch.initial.begin(),
                            scratch.initial.begin() + static_cast<std::ptrdiff_t>(behind.begin));
      tokens = std::move(next);
      is_cut = true;
    }
    if (!is_cut)
      throw DataError(
          "{}: the merges in a piece of text of {} bytes depend on characters tens of thousands of positions away. "
          "Split the document.",
          where_, piece.size());
  }
  for (const Token& token : tokens) out.ids().push_back(token.id);
}

void BpeModel::tokenize(std::string_view piece, MergeScratch& scratch, IdBuffer& out) const {
  if (piece.size() > kMaxCachedPiece) return tokenize_uncached(piece, scratch, out);
  auto& ids = out.ids();
  if (const auto found = scratch.cache.find(piece); found != scratch.cache.end()) {
    const auto begin = scratch.cached_ids.begin() + found->second.begin;
    ids.insert(ids.end(), begin, begin + found->second.size);
    return out.flush_if_full();
  }
  out.make_room(kMaxCachedPiece);  // so that the ids of this piece stay in the buffer
  const std::size_t first = ids.size();
  tokenize_uncached(piece, scratch, out);
  if (scratch.cache.size() < kMaxCachedPieces) {
    const auto begin = static_cast<std::uint32_t>(scratch.cached_ids.size());
    scratch.cached_ids.insert(scratch.cached_ids.end(), ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
    scratch.cache.emplace(piece, MergeScratch::Cached{begin, static_cast<std::uint32_t>(ids.size() - first)});
  }
}

void BpeModel::tokenize_uncached(std::string_view piece, MergeScratch& scratch, IdBuffer& out) const {
  if (piece.empty()) return;
  auto& ids = out.ids();
  if (ignore_merges_) {
    if (const auto id = id_of(piece)) {
      ids.push_back(*id);
      return out.flush_if_full();
    }
  }
  if (piece.size() > kWindow) {
    merge_in_windows(piece, scratch, out);
    return out.flush_if_full();
  }
  Reading reading;
  scratch.initial.clear();
  read_characters(piece, reading, scratch, piece.size() + 1);
  if (scratch.initial.size() <= kFewSymbols) {
    merge_few(scratch.initial);
    ids.insert(ids.end(), scratch.initial.begin(), scratch.initial.end());
  } else {
    merge(scratch, 0);
    for (const auto& symbol : scratch.symbols)
      if (!symbol.removed) ids.push_back(symbol.id);
  }
  out.flush_if_full();
}

}  // namespace adept::data::tok
