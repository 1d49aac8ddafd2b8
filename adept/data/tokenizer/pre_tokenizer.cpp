#include "adept/data/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "adept/data/tokenizer/byte_level.h"
#include "adept/data/tokenizer/metaspace.h"
#include "adept/data/tokenizer/pattern.h"
#include "adept/data/tokenizer/unicode.h"

namespace adept::data::tok {

namespace {

// How to handle the delimiters that a pattern matches.
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

// Emits pieces from spans in order, joined with their neighbors according to the behavior.
class SpanJoiner {
 public:
  SpanJoiner(Behavior behavior, std::string_view text, std::size_t first_bytes, PieceSink emit)
      : behavior_(behavior), text_(text), first_bytes_(first_bytes), emit_(emit) {}

  void add(const Span& span) {
    switch (behavior_) {
      case Behavior::kRemoved:
        if (!span.is_match) hand_over(span.begin, span.end);
        return;
      case Behavior::kIsolated:
        hand_over(span.begin, span.end);
        return;
      case Behavior::kMergedWithPrevious:
        join_or_begin(span, span.is_match && !held_match_);
        return;
      case Behavior::kContiguous:
        join_or_begin(span, span.is_match == held_match_);
        return;
      case Behavior::kMergedWithNext:
        join_or_begin(span, held_match_ && !span.is_match);
        return;
    }
  }
  void finish() {
    if (holds_) hand_over(held_begin_, held_end_);
    holds_ = false;
  }

 private:
  void join_or_begin(const Span& span, bool joins) {
    if (joins && holds_) {
      held_end_ = span.end;
    } else {
      finish();
      held_begin_ = span.begin;
      held_end_ = span.end;
      holds_ = true;
    }
    held_match_ = span.is_match;
  }
  void hand_over(std::size_t begin, std::size_t end) {
    if (begin < end) emit_(text_.substr(begin, end - begin), first_bytes_ > begin ? first_bytes_ - begin : 0);
  }

  Behavior behavior_;
  std::string_view text_;
  std::size_t first_bytes_;
  PieceSink emit_;
  bool holds_ = false, held_match_ = false;  // the previous span: whether it is pending, and whether it is a match
  std::size_t held_begin_ = 0, held_end_ = 0;
};

// Spans of single delimiter characters, and of the text between them.
template <typename Predicate>
void split_at_characters(Behavior behavior, std::string_view text, std::size_t first_bytes, PieceSink emit,
                         const Predicate& is_delimiter) {
  SpanJoiner joiner(behavior, text, first_bytes, emit);
  std::size_t covered = 0;
  for (std::size_t i = 0; i < text.size();) {
    for (const std::size_t end = part_end(text, i); i < end;) {
      const std::size_t start = i;
      if (!is_delimiter(decode_utf8(text, i))) continue;
      if (covered < start) joiner.add({covered, start, false});
      joiner.add({start, i, true});
      covered = i;
    }
  }
  if (covered < text.size()) joiner.add({covered, text.size(), false});
  joiner.finish();
}

class ByteLevel final : public PreTokenizer {
 public:
  explicit ByteLevel(const JsonField& field) : where_(field.where()) {
    field.check_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    add_prefix_space_ = field.at("add_prefix_space").as_bool();
    field.at("trim_offsets").as_bool();  // concerns offsets, which are not computed
    const auto use_regex = field.find("use_regex");
    // GPT-2, encoder.py.
    if (!use_regex || use_regex->as_bool())
      regex_.emplace(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", field.where());
  }

  void split(std::string_view piece, std::size_t first_bytes, MatchScratch& scratch, PieceSink emit) const override {
    if (!add_prefix_space_ || piece.front() == ' ') return split_words(piece, first_bytes, scratch, emit);
    const MatchScratch::Lease prefixed(scratch);
    (*prefixed).reserve(piece.size() + 1);
    *prefixed += ' ';
    *prefixed += piece;
    split_words(*prefixed, first_bytes > 0 ? first_bytes + 1 : 0, scratch, emit);
  }

 private:
  void split_words(std::string_view piece, std::size_t first_bytes, MatchScratch& scratch, PieceSink emit) const {
    if (!regex_) return encode(piece, first_bytes, scratch, emit);
    regex_->for_each(piece, scratch, [&](const Span& span) {
      if (span.begin < span.end)
        encode(piece.substr(span.begin, span.end - span.begin), first_bytes > span.begin ? first_bytes - span.begin : 0,
               scratch, emit);
    });
  }

  void encode(std::string_view word, std::size_t first_bytes, MatchScratch& scratch, PieceSink emit) const {
    const MatchScratch::Lease out(scratch);
    first_bytes = std::min(first_bytes, word.size());
    (*out).reserve(2 * word.size());
    append_byte_characters(*out, word.substr(0, first_bytes));
    const std::size_t first = (*out).size();
    append_byte_characters(*out, word.substr(first_bytes));
    scratch.budget.charge_growth(word.size(), (*out).size(), where_);
    emit(*out, first);
  }

  std::string where_;
  bool add_prefix_space_ = false;
  std::optional<Regex> regex_;
};

class Digits final : public PreTokenizer {
 public:
  explicit Digits(const JsonField& field) {
    field.check_keys({"type", "individual_digits"});
    behavior_ = field.at("individual_digits").as_bool() ? Behavior::kIsolated : Behavior::kContiguous;
  }
  void split(std::string_view piece, std::size_t first_bytes, MatchScratch&, PieceSink emit) const override {
    split_at_characters(behavior_, piece, first_bytes, emit, is_numeric);
  }

 private:
  Behavior behavior_;
};

class WhitespaceSplit final : public PreTokenizer {
 public:
  explicit WhitespaceSplit(const JsonField& field) { field.check_keys({"type"}); }
  void split(std::string_view piece, std::size_t first_bytes, MatchScratch&, PieceSink emit) const override {
    split_at_characters(Behavior::kRemoved, piece, first_bytes, emit, is_white_space);
  }
};

class Split final : public PreTokenizer {
 public:
  explicit Split(const JsonField& field) : pattern_(field.at("pattern")), behavior_(behavior_of(field.at("behavior"))) {
    field.check_keys({"type", "pattern", "behavior", "invert"});
    invert_ = field.at("invert").as_bool();
  }
  void split(std::string_view piece, std::size_t first_bytes, MatchScratch& scratch, PieceSink emit) const override {
    SpanJoiner joiner(behavior_, piece, first_bytes, emit);
    pattern_.for_each(piece, scratch,
                      [&](const Span& span) { joiner.add({span.begin, span.end, span.is_match != invert_}); });
    joiner.finish();
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_ = false;
};

class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(const JsonField& field) : where_(field.where()), options_(read_metaspace(field)) {
    append_utf8(replacement_, options_.replacement);
  }
  void split(std::string_view piece, std::size_t first_bytes, MatchScratch& scratch, PieceSink emit) const override {
    const MatchScratch::Lease out(scratch);
    const std::size_t first = rewrite(piece, first_bytes, *out);
    scratch.budget.charge_growth(piece.size(), (*out).size(), where_);
    if (!options_.split) return emit(*out, first);
    split_at_characters(Behavior::kMergedWithNext, *out, first, emit,
                        [&](char32_t c) { return c == options_.replacement; });
  }

 private:
  std::size_t rewrite(std::string_view piece, std::size_t first_bytes, std::string& out) const {
    out.reserve(3 * piece.size());  // untouched pages take no memory
    const bool has_prefix = piece.front() == ' ' || piece.substr(0, replacement_.size()) == replacement_;
    const bool adds = !has_prefix && (options_.scheme == PrependScheme::kAlways ||
                                      (options_.scheme == PrependScheme::kFirst && first_bytes > 0));
    if (adds) out += replacement_;
    std::size_t first = 0;
    for (std::size_t i = 0; i < piece.size();) {
      for (const std::size_t end = part_end(piece, i); i < end; ++i) {
        if (piece[i] == ' ')
          out += replacement_;
        else
          out += piece[i];
        if (i + 1 == first_bytes) first = out.size();
      }
    }
    return first;
  }

  std::string where_;
  MetaspaceOptions options_;
  std::string replacement_;
};

class PreTokenizerSequence final : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(const JsonField& field) {
    field.check_keys({"type", "pretokenizers"});
    for (const JsonField& element : field.at("pretokenizers").elements()) parts_.push_back(make_pre_tokenizer(element));
  }
  void split(std::string_view piece, std::size_t first_bytes, MatchScratch& scratch, PieceSink emit) const override {
    split_from(0, piece, first_bytes, scratch, emit);
  }

 private:
  void split_from(std::size_t part, std::string_view piece, std::size_t first_bytes, MatchScratch& scratch,
                  PieceSink emit) const {
    if (part == parts_.size()) return emit(piece, first_bytes);
    parts_[part]->split(piece, first_bytes, scratch, [&, part](std::string_view next, std::size_t next_first_bytes) {
      split_from(part + 1, next, next_first_bytes, scratch, emit);
    });
  }

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
