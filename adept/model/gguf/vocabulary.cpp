#include "adept/model/gguf/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "adept/core/log.h"
#include "adept/io/text_quote.h"

namespace adept::model {
namespace {

using io::quote;

constexpr std::size_t kMaxPieceBytes = 1024;  // of a SentencePiece token; trainers allow 16 characters by default
constexpr std::size_t kMaxReported = 10;
constexpr std::string_view kBlank = "▁";  // SentencePiece's blank

std::size_t characters(std::string_view utf8) {
  return static_cast<std::size_t>(
      std::ranges::count_if(utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::optional<std::int64_t> read_id(const io::GgufFile& file, std::string_view key, std::int64_t size,
                                    std::vector<std::string>& problems) {
  const auto id = file.integer(key);
  if (!id) return std::nullopt;
  if (*id >= 0 && *id < size) return id;
  problems.push_back(fmt::format("{} is {}, but there are {} tokens", quote(key), *id, size));
  return std::nullopt;
}

void read_types(const io::GgufFile& file, GgufVocabulary& vocabulary, std::vector<std::string>& problems) {
  const std::size_t size = vocabulary.tokens.size();
  vocabulary.types.assign(size, GgufTokenType::kNormal);
  const auto types = file.integers("tokenizer.ggml.token_type");
  if (!types) {
    problems.push_back("has no \"tokenizer.ggml.token_type\", which tells the special tokens");
    return;
  }
  if (types->size() != size) {
    problems.push_back(fmt::format("has {} tokens but {} token types", size, types->size()));
    return;
  }
  for (std::size_t id = 0; id < size; ++id) {
    if ((*types)[id] < 1 || (*types)[id] > 6) {
      problems.push_back(fmt::format("token {} has the type {}; expected 1 to 6", id, (*types)[id]));
      return;
    }
    vocabulary.types[id] = static_cast<GgufTokenType>((*types)[id]);
  }
}

void respell_blanks(GgufVocabulary& vocabulary) {
  const auto is_blank = [&](std::int64_t id) {
    return vocabulary.types[static_cast<std::size_t>(id)] == GgufTokenType::kUserDefined &&
           vocabulary.token(id).find_first_not_of(' ') == std::string_view::npos;
  };
  std::size_t longest = 0;
  for (std::int64_t id = 0; id < vocabulary.size(); ++id)
    if (is_blank(id)) longest = std::max(longest, vocabulary.token(id).size());
  std::string text;
  for (std::size_t i = 0; i < longest; ++i) text += kBlank;
  vocabulary.blanks = std::make_shared<const std::string>(std::move(text));
  for (std::int64_t id = 0; id < vocabulary.size(); ++id)
    if (is_blank(id))
      vocabulary.tokens[static_cast<std::size_t>(id)] =
          std::string_view(*vocabulary.blanks).substr(0, vocabulary.token(id).size() * kBlank.size());
}

void index_tokens(GgufVocabulary& vocabulary, std::vector<std::string>& problems) {
  std::size_t num_duplicates = 0;
  std::size_t num_empty = 0;
  for (std::int64_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.token(id).empty() && num_empty++ == 0) problems.push_back(fmt::format("token {} is empty", id));
    const auto [first, added] = vocabulary.ids.emplace(vocabulary.token(id), id);
    if (!added && ++num_duplicates <= kMaxReported)
      problems.push_back(fmt::format("tokens {} and {} are both {}", first->second, id, quote(vocabulary.token(id))));
  }
  if (num_duplicates > kMaxReported)
    problems.push_back(fmt::format("and {} more tokens appear twice", num_duplicates - kMaxReported));
}

}  // namespace

bool GgufVocabulary::is_special(std::int64_t id) const {
  const GgufTokenType type = types[static_cast<std::size_t>(id)];
  if (type == GgufTokenType::kUserDefined) return id == bos || id == eos || id == unk || id == pad;
  return type == GgufTokenType::kControl || type == GgufTokenType::kUnknown;
}

bool GgufVocabulary::is_filler(std::int64_t id) const {
  return types[static_cast<std::size_t>(id)] == GgufTokenType::kUnused && id != bos && id != eos && id != pad &&
         token(id) == fmt::format("[PAD{}]", id);
}

GgufVocabulary read_vocabulary(const io::GgufFile& file, std::int64_t vocab_size, std::vector<std::string>& problems) {
  GgufVocabulary vocabulary;
  const auto* tokens = file.strings("tokenizer.ggml.tokens");
  if (!tokens) {
    problems.push_back("has no \"tokenizer.ggml.tokens\"");
    return vocabulary;
  }
  vocabulary.tokens = *tokens;
  const std::int64_t size = std::ssize(*tokens);
  if (size > vocab_size)
    problems.push_back(fmt::format("has {} tokens, but \"token_embd.weight\" has {} rows", size, vocab_size));
  read_types(file, vocabulary, problems);
  if (file.string("tokenizer.ggml.model") == "llama" && !file.boolean("tokenizer.ggml.add_space_prefix").value_or(true))
    respell_blanks(vocabulary);
  index_tokens(vocabulary, problems);
  vocabulary.bos = read_id(file, "tokenizer.ggml.bos_token_id", size, problems);
  vocabulary.eos = read_id(file, "tokenizer.ggml.eos_token_id", size, problems);
  // Padding is not used here: an id without a token counts as none, as in llama.cpp.
  if (const auto pad = file.integer("tokenizer.ggml.padding_token_id"); pad && *pad >= 0 && *pad < size)
    vocabulary.pad = pad;
  vocabulary.unk = read_id(file, "tokenizer.ggml.unknown_token_id", size, problems);
  if (!vocabulary.unk) {
    const auto unknown = std::ranges::find(vocabulary.types, GgufTokenType::kUnknown);
    if (unknown != vocabulary.types.end()) vocabulary.unk = unknown - vocabulary.types.begin();
  }
  return vocabulary;
}

void check_byte_tokens(const GgufVocabulary& vocabulary, std::vector<std::string>& problems) {
  std::set<std::string> absent;
  for (int byte = 0; byte < 256; ++byte) absent.insert(fmt::format("<0x{:02X}>", byte));
  std::size_t num_wrong = 0;
  for (std::int64_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.types[static_cast<std::size_t>(id)] != GgufTokenType::kByte) continue;
    if (absent.erase(std::string(vocabulary.token(id))) == 0 && ++num_wrong <= kMaxReported)
      problems.push_back(fmt::format("token {}, {}, is of the type byte; expected a name from <0x00> to <0xFF>", id,
                                     quote(vocabulary.token(id))));
  }
  if (num_wrong > kMaxReported) problems.push_back(fmt::format("and {} more byte tokens", num_wrong - kMaxReported));
  std::erase_if(absent, [&](const std::string& name) { return vocabulary.ids.contains(name); });
  if (!absent.empty())
    problems.push_back(
        fmt::format("{} of the 256 byte tokens are missing, such as {}", absent.size(), *absent.begin()));
}

std::vector<std::string> read_merges(const io::GgufFile& file, const GgufVocabulary& vocabulary,
                                     std::vector<std::string>& problems) {
  std::vector<std::string> result;
  const auto* merges = file.strings("tokenizer.ggml.merges");
  if (!merges) {
    problems.push_back("has no \"tokenizer.ggml.merges\", which byte-level BPE needs");
    return result;
  }
  std::size_t num_bad = 0;
  const auto report = [&](std::size_t index, std::string_view merge, std::string_view fault) {
    if (++num_bad <= kMaxReported) problems.push_back(fmt::format("merge {}, {}, {}", index, quote(merge), fault));
  };
  for (std::size_t i = 0; i < merges->size(); ++i) {
    const std::string_view merge = (*merges)[i];
    const std::size_t blank = merge.find(' ', 1);
    if (blank == std::string_view::npos || blank + 1 == merge.size() ||
        merge.find(' ', blank + 1) != std::string_view::npos) {
      report(i, merge, "is not two tokens with a blank between them");
      continue;
    }
    const std::string_view left = merge.substr(0, blank);
    const std::string_view right = merge.substr(blank + 1);
    const std::string whole = std::string(left) + std::string(right);
    for (const std::string_view part : {left, right, std::string_view(whole)})
      if (!vocabulary.ids.contains(part)) report(i, merge, fmt::format("needs {}, which is no token", quote(part)));
    result.emplace_back(merge);
  }
  if (num_bad > kMaxReported) problems.push_back(fmt::format("and {} more faults of merges", num_bad - kMaxReported));
  return result;
}

std::vector<std::string> merges_from_scores(const io::GgufFile& file, const GgufVocabulary& vocabulary,
                                            std::vector<std::string>& problems) {
  const auto scores = file.floats("tokenizer.ggml.scores");
  if (!scores || std::ssize(*scores) != vocabulary.size()) {
    problems.push_back(fmt::format("has {} tokens but {} \"tokenizer.ggml.scores\", the order of merges",
                                   vocabulary.size(), scores ? scores->size() : 0));
    return {};
  }
  const auto type_of = [&](std::int64_t id) { return vocabulary.types[static_cast<std::size_t>(id)]; };
  const auto merges_with_others = [&](std::int64_t id) {
    return type_of(id) == GgufTokenType::kNormal || type_of(id) == GgufTokenType::kUserDefined;
  };
  const auto is_part = [&](std::string_view text) {
    const auto found = vocabulary.ids.find(text);
    return found != vocabulary.ids.end() && merges_with_others(found->second);
  };
  struct Merge {
    std::pair<bool, double> priority;  // whether it is user-defined, and how early it comes among its kind
    std::size_t left_characters, right_characters;
    std::string_view left, right;
  };
  std::vector<Merge> merges;
  std::set<double> made;  // scores of the tokens that merges make
  std::size_t num_tied = 0;
  for (std::int64_t id = 0; id < vocabulary.size(); ++id) {
    if (!merges_with_others(id)) continue;
    const std::string_view token = vocabulary.token(id);
    const bool is_defined = type_of(id) == GgufTokenType::kUserDefined;
    const double score = is_defined ? -static_cast<double>(id) : (*scores)[static_cast<std::size_t>(id)];
    if (token.size() > kMaxPieceBytes || !std::isfinite(score)) {
      problems.push_back(fmt::format("token {}, {}, has {} bytes and the score {}; expected at most {} and a number",
                                     id, quote(token), token.size(), score, kMaxPieceBytes));
      return {};
    }
    bool is_made = false;
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      const std::string_view left = token.substr(0, cut);
      const std::string_view right = token.substr(cut);
      if (!is_part(left) || !is_part(right)) continue;
      merges.push_back({{is_defined, score}, characters(left), characters(right), left, right});
      is_made = true;
    }
    if (is_made && !is_defined && !made.insert(score).second) ++num_tied;
  }
  if (num_tied > 0)
    log_warning("{}: {} tokens share their score with another; merges of equal score go by the longer left part",
                file.where(), num_tied);
  std::ranges::stable_sort(merges, [](const Merge& a, const Merge& b) {
    return std::tie(b.priority, b.left_characters, b.right_characters) <
           std::tie(a.priority, a.left_characters, a.right_characters);
  });
  std::vector<std::string> result;
  result.reserve(merges.size());
  for (const Merge& merge : merges) {
    if (merge.left.find(' ') != std::string_view::npos || merge.right.find(' ') != std::string_view::npos) continue;
    result.push_back(fmt::format("{} {}", merge.left, merge.right));
  }
  return result;
}

}  // namespace adept::model
