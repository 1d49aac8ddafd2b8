#include "adept/data/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <functional>

#include "adept/data/tokenizer/byte_level.h"
#include "adept/data/tokenizer/metaspace.h"
#include "adept/data/tokenizer/pattern.h"
#include "adept/data/tokenizer/unicode.h"

namespace adept::data::tok {

void PieceList::append(std::string_view content, std::size_t first_bytes) {
  if (content.empty()) return;
  const std::size_t begin = text.size();
  text += content;
  pieces.push_back({begin, text.size(), first_bytes, -1});
}

namespace {

// What happens to the delimiters that a pattern matches.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior behavior_of(const JsonField& field) {
  const std::string& name = field.as_string();
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  field.refuse(name, "Contiguous, Isolated, MergedWithNext, MergedWithPrevious, Removed");
}

// Joins neighbouring spans as the behaviour says; what remains with is_match is to be dropped.
void apply(Behavior behavior, std::vector<Span>& spans) {
  if (behavior == Behavior::kRemoved) return;
  if (behavior == Behavior::kMergedWithNext) std::reverse(spans.begin(), spans.end());
  std::size_t kept = 0;
  bool previous_match = false;
  for (const Span span : spans) {
    const bool joins = behavior == Behavior::kContiguous ? span.is_match == previous_match
                       : behavior == Behavior::kIsolated ? false
                                                         : span.is_match && !previous_match;
    if (joins && kept > 0) {
      spans[kept - 1].begin = std::min(spans[kept - 1].begin, span.begin);
      spans[kept - 1].end = std::max(spans[kept - 1].end, span.end);
    } else {
      spans[kept++] = {span.begin, span.end, false};
    }
    previous_match = span.is_match;
  }
  spans.resize(kept);
  if (behavior == Behavior::kMergedWithNext) std::reverse(spans.begin(), spans.end());
}

// Replaces every text piece by the pieces that its spans give.
void split_pieces(PieceList& list, Behavior behavior,
                  const std::function<void(std::string_view, std::vector<Span>&)>& find) {
  std::vector<Piece> pieces;
  pieces.reserve(list.pieces.size());
  std::vector<Span> spans;
  for (const Piece& piece : list.pieces) {
    if (piece.token >= 0) {
      pieces.push_back(piece);
      continue;
    }
    spans.clear();
    find(std::string_view(list.text).substr(piece.begin, piece.end - piece.begin), spans);
    apply(behavior, spans);
    for (const Span& span : spans) {
      if (span.is_match || span.begin == span.end) continue;
      pieces.push_back({piece.begin + span.begin, piece.begin + span.end,
                        piece.first_bytes > span.begin ? piece.first_bytes - span.begin : 0, -1});
    }
  }
  list.pieces = std::move(pieces);
}

// Rewrites every text piece.
template <typename Rewrite>
void rewrite_pieces(PieceList& list, const Rewrite& rewrite) {
  std::string text;
  text.reserve(list.text.size() + list.text.size() / 4);
  for (Piece& piece : list.pieces) {
    const std::size_t begin = text.size();
    const std::string_view content = std::string_view(list.text).substr(piece.begin, piece.end - piece.begin);
    if (piece.token < 0) piece.first_bytes = rewrite(content, piece.first_bytes, text);
    piece.begin = begin;
    piece.end = text.size();
  }
  list.text = std::move(text);
}

// Spans of single characters that `is_delimiter`, and of what lies between.
template <typename Predicate>
void find_characters(std::string_view text, std::vector<Span>& spans, const Predicate& is_delimiter) {
  std::size_t covered = 0;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t start = i;
    if (!is_delimiter(decode_utf8(text, i))) continue;
    if (covered < start) spans.push_back({covered, start, false});
    spans.push_back({start, i, true});
    covered = i;
  }
  if (covered < text.size()) spans.push_back({covered, text.size(), false});
}

class ByteLevel final : public PreTokenizer {
 public:
  explicit ByteLevel(const JsonField& field) {
    field.check_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    add_prefix_space_ = field.at("add_prefix_space").as_bool();
    field.at("trim_offsets").as_bool();  // about offsets, which are not computed here
    const auto use_regex = field.find("use_regex");
    // GPT-2, encoder.py.
    if (!use_regex || use_regex->as_bool())
      regex_.emplace(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", field.where());
  }

  void split(PieceList& list, MatchScratch& scratch) const override {
    if (add_prefix_space_)
      rewrite_pieces(list, [](std::string_view piece, std::size_t first_bytes, std::string& out) {
        const bool adds = piece.front() != ' ';
        if (adds) out += ' ';
        out += piece;
        return first_bytes > 0 && adds ? first_bytes + 1 : first_bytes;
      });
    if (regex_)
      split_pieces(list, Behavior::kIsolated,
                   [&](std::string_view text, std::vector<Span>& spans) { regex_->find_all(text, scratch, spans); });
    rewrite_pieces(list, [](std::string_view piece, std::size_t first_bytes, std::string& out) {
      const std::size_t begin = out.size();
      append_byte_characters(out, piece.substr(0, first_bytes));
      const std::size_t first = out.size() - begin;
      append_byte_characters(out, piece.substr(std::min(first_bytes, piece.size())));
      return first;
    });
  }

 private:
  bool add_prefix_space_ = false;
  std::optional<Regex> regex_;
};

class Digits final : public PreTokenizer {
 public:
  explicit Digits(const JsonField& field) {
    field.check_keys({"type", "individual_digits"});
    individual_ = field.at("individual_digits").as_bool();
  }
  void split(PieceList& list, MatchScratch&) const override {
    split_pieces(list, individual_ ? Behavior::kIsolated : Behavior::kContiguous,
                 [](std::string_view text, std::vector<Span>& spans) { find_characters(text, spans, is_numeric); });
  }

 private:
  bool individual_ = false;
};

class WhitespaceSplit final : public PreTokenizer {
 public:
  explicit WhitespaceSplit(const JsonField& field) { field.check_keys({"type"}); }
  void split(PieceList& list, MatchScratch&) const override {
    split_pieces(list, Behavior::kRemoved,
                 [](std::string_view text, std::vector<Span>& spans) { find_characters(text, spans, is_white_space); });
  }
};

class Split final : public PreTokenizer {
 public:
  explicit Split(const JsonField& field) : pattern_(field.at("pattern")), behavior_(behavior_of(field.at("behavior"))) {
    field.check_keys({"type", "pattern", "behavior", "invert"});
    invert_ = field.at("invert").as_bool();
  }
  void split(PieceList& list, MatchScratch& scratch) const override {
    split_pieces(list, behavior_, [&](std::string_view text, std::vector<Span>& spans) {
      pattern_.find_all(text, scratch, spans);
      if (invert_)
        for (Span& span : spans) span.is_match = !span.is_match;
    });
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_ = false;
};

class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(const JsonField& field) : options_(read_metaspace(field)) {
    append_utf8(replacement_, options_.replacement);
  }
  void split(PieceList& list, MatchScratch&) const override {
    rewrite_pieces(list, [&](std::string_view piece, std::size_t first_bytes, std::string& out) {
      return rewrite(piece, first_bytes, out);
    });
    if (options_.split)
      split_pieces(list, Behavior::kMergedWithNext, [&](std::string_view text, std::vector<Span>& spans) {
        find_characters(text, spans, [&](char32_t c) { return c == options_.replacement; });
      });
  }

 private:
  std::size_t rewrite(std::string_view piece, std::size_t first_bytes, std::string& out) const {
    const std::size_t begin = out.size();
    const bool has_prefix = piece.front() == ' ' || piece.substr(0, replacement_.size()) == replacement_;
    const bool adds = !has_prefix && (options_.scheme == PrependScheme::kAlways ||
                                      (options_.scheme == PrependScheme::kFirst && first_bytes > 0));
    if (adds) out += replacement_;
    std::size_t first = 0;
    for (std::size_t i = 0; i < piece.size(); ++i) {
      if (piece[i] == ' ')
        out += replacement_;
      else
        out += piece[i];
      if (i + 1 == first_bytes) first = out.size() - begin;
    }
    return first;
  }

  MetaspaceOptions options_;
  std::string replacement_;
};

class PreTokenizerSequence final : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(const JsonField& field) {
    field.check_keys({"type", "pretokenizers"});
    for (const JsonField& element : field.at("pretokenizers").elements()) parts_.push_back(make_pre_tokenizer(element));
  }
  void split(PieceList& list, MatchScratch& scratch) const override {
    for (const auto& part : parts_) part->split(list, scratch);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

}  // namespace

MetaspaceOptions read_metaspace(const JsonField& field) {
  field.check_keys({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
  MetaspaceOptions options;
  options.replacement = field.at("replacement").as_character();
  if (const auto scheme = field.find("prepend_scheme")) {
    const std::string& name = scheme->as_string();
    if (name == "first")
      options.scheme = PrependScheme::kFirst;
    else if (name == "never")
      options.scheme = PrependScheme::kNever;
    else if (name != "always")
      scheme->refuse(name, "always, first, never");
  }
  if (const auto add_prefix_space = field.find("add_prefix_space"); add_prefix_space && !add_prefix_space->as_bool()) {
    if (options.scheme != PrependScheme::kNever)
      add_prefix_space->fail("is false but prepend_scheme is not \"never\"; make them agree.");
  }
  if (const auto split = field.find("split")) options.split = split->as_bool();
  return options;
}

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonField& field) {
  const JsonField type = field.at("type");
  const std::string& name = type.as_string();
  if (name == "ByteLevel") return std::make_unique<ByteLevel>(field);
  if (name == "Digits") return std::make_unique<Digits>(field);
  if (name == "Metaspace") return std::make_unique<Metaspace>(field);
  if (name == "Sequence") return std::make_unique<PreTokenizerSequence>(field);
  if (name == "Split") return std::make_unique<Split>(field);
  if (name == "WhitespaceSplit") return std::make_unique<WhitespaceSplit>(field);
  type.refuse(name, "ByteLevel, Digits, Metaspace, Sequence, Split, WhitespaceSplit");
}

}  // namespace adept::data::tok
