#include "adept/data/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/hash.h"
#include "adept/core/json.h"
#include "adept/core/log.h"
#include "adept/data/tokenizer/added_tokens.h"
#include "adept/data/tokenizer/bpe.h"
#include "adept/data/tokenizer/byte_level_encoder.h"
#include "adept/data/tokenizer/normalizer.h"
#include "adept/data/tokenizer/post_processor.h"
#include "adept/data/tokenizer/pre_tokenizer.h"
#include "adept/data/tokenizer/token_decoder.h"
#include "adept/data/tokenizer/tokenizer_class.h"
#include "adept/data/tokenizer/tokenizer_settings.h"
#include "adept/data/tokenizer/unicode.h"

namespace adept::data {
namespace {

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{1} << 30;
constexpr std::size_t kMaxParts = 256;

std::string read_file(const std::filesystem::path& path) {
  if (!is_present(path))
    throw DataError(
        "{}: no such file; expected a tokenizer.json. adept does not read tokenizer.model or vocab.json; convert them "
        "to tokenizer.json with transformers.",
        path.string());
  std::string text = read_all(open_for_reading(path), path, kMaxFileBytes);
  if (text.size() > kMaxFileBytes)
    throw DataError("{}: larger than {} bytes, the limit for a tokenizer.json.", path.string(), kMaxFileBytes);
  return text;
}

// Counts nested parts too. Pieces of text pass through all of them in nested calls.
std::size_t count_parts(const SortedJson& json) {
  std::size_t count = json.is_object() && json.contains("type") ? 1 : 0;
  for (const SortedJson& member : json)
    if (member.is_structured()) count += count_parts(member);
  return count;
}

/// A normalizer, pre-tokenizer, decoder or post-processor.
std::optional<tok::JsonField> find_part(const tok::JsonField& root, std::string_view name) {
  std::optional<tok::JsonField> part = root.find(name);
  if (!part) return part;
  if (const std::size_t count = count_parts(part->json()); count > kMaxParts)
    part->fail(fmt::format("has {} parts; expected at most {}. Use another tokenizer.", count, kMaxParts));
  return part;
}

struct Scratch {
  tok::MatchScratch match;
  tok::MergeScratch merge;
  std::unique_ptr<tok::WordScratch> words;  // with a word pattern
};

tok::BpeModel read_model(const tok::JsonField& root) {
  const tok::JsonField model = root.at("model");
  // Old files have no type; a list of merges identifies BPE.
  if (const auto type = model.find("type"); type && type->as_string() != "BPE") type->refuse(type->as_string(), "BPE");
  return tok::BpeModel(model);
}

}  // namespace

struct Tokenizer::Impl {
  std::string fingerprint;
  tok::BpeModel model;
  std::unique_ptr<tok::Normalizer> normalizer;
  std::unique_ptr<tok::PreTokenizer> pre_tokenizer;
  std::optional<tok::WordPattern> word_pattern;  // of the pre-tokenizer, if it has one
  std::unique_ptr<tok::TokenDecoder> decoder;
  tok::AddedTokens added;
  bool split_special_tokens = false;
  std::vector<std::int32_t> front, back;  // what the post-processor adds
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<Scratch>> idle;  // guarded by mutex

  Impl(const tok::JsonField& root, std::string hash, const tok::TokenizerSettings* settings)
      : fingerprint(std::move(hash)), model(read_model(root)) {
    root.check_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "model",
                     "decoder", "post_processor"});
    if (const auto version = root.find("version"); version && version->as_string() != "1.0")
      version->refuse(version->as_string(), "1.0");
    if (const auto part = find_part(root, "normalizer")) normalizer = tok::make_normalizer(*part);
    if (const auto part = find_part(root, "pre_tokenizer")) {
      pre_tokenizer = tok::make_pre_tokenizer(*part);
      word_pattern = tok::word_pattern_of(part->json());
    }
    if (const auto part = find_part(root, "decoder")) decoder = tok::make_token_decoder(*part);
    read_added_tokens(root, settings);
    if (const auto part = find_part(root, "post_processor")) {
      tok::make_post_processor(*part)->surround(front, back);
      for (const auto* ids : {&front, &back})
        for (const std::int32_t id : *ids)
          if (token_of(id) == nullptr) part->fail(fmt::format("adds the id {}, which no token has.", id));
    }
  }

  void read_added_tokens(const tok::JsonField& root, const tok::TokenizerSettings* settings) {
    std::vector<tok::AddedToken> listed;
    std::string list = root.where() + ": added_tokens";
    if (const auto field = root.find("added_tokens")) listed = tok::AddedTokens::read(*field);
    added.add(listed, model, normalizer.get(), list);
    if (settings != nullptr) {
      const std::vector<tok::AddedToken> more = tok::tokens_to_add(*settings, listed, added, padding_token(root));
      added.add(more, model, normalizer.get(), list);
      split_special_tokens = settings->split_special_tokens;
      if (!more.empty() || split_special_tokens) fingerprint = changed_fingerprint(more);
    }
    added.prepare(list);
  }

  std::string changed_fingerprint(const std::vector<tok::AddedToken>& tokens) const {
    Hasher hasher;
    hasher.update(fmt::format("{} {:d}\n", fingerprint, split_special_tokens));
    for (const tok::AddedToken& token : tokens)
      hasher.update(fmt::format("{} {:d}{:d}{:d}{:d}{:d} {}\n", token.content.size(), token.single_word, token.lstrip,
                                token.rstrip, token.normalized, token.special, token.content));
    return hasher.digest();
  }

  static std::optional<tok::DeclaredToken> padding_token(const tok::JsonField& root) {
    const auto padding = root.find("padding");
    const auto token = padding && padding->json().is_object() ? padding->find("pad_token") : std::nullopt;
    if (!token) return std::nullopt;
    return tok::DeclaredToken{.content = token->as_string(), .where = token->where(), .is_text = true};
  }

  // The string that is decoded, or nullptr.
  const std::string* token_of(std::int32_t id) const {
    const std::string* text = added.text_of(id);
    return text != nullptr ? text : model.token_of(id);
  }

  std::unique_ptr<Scratch> borrow(std::size_t text_bytes) const {
    std::unique_ptr<Scratch> scratch;
    {
      const std::lock_guard lock(mutex);
      if (!idle.empty()) {
        scratch = std::move(idle.back());
        idle.pop_back();
      }
    }
    if (!scratch) {
      scratch = std::make_unique<Scratch>();
      if (word_pattern) scratch->words = std::make_unique<tok::WordScratch>();
    }
    scratch->match.budget = tok::TextBudget(text_bytes);
    return scratch;
  }

  void give_back(std::unique_ptr<Scratch> scratch) const {
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(scratch));
  }

  // Extracts added tokens from the text, and from the rest after normalization.
  void encode(std::string_view text, Scratch& scratch, tok::IdBuffer& out) const {
    const auto add_token = [&](std::int32_t id) {
      out.ids().push_back(id);
      out.flush_if_full();
    };
    const auto merge = [&](std::string_view piece, std::size_t) { model.tokenize(piece, scratch.merge, out); };
    const auto encode_part = [&](std::string_view part, std::size_t first_bytes) {
      added.find_all(part, true, split_special_tokens, [&](const tok::AddedSpan& span) {
        if (span.token >= 0) return add_token(span.token);
        const std::string_view piece = part.substr(span.begin, span.end - span.begin);
        if (piece.empty()) return;
        if (word_pattern)
          tok::encode_words(*word_pattern, piece, model, *scratch.words, scratch.merge, out);
        else if (pre_tokenizer)
          pre_tokenizer->split(piece, first_bytes > span.begin ? first_bytes - span.begin : 0, scratch.match, merge);
        else
          merge(piece, 0);
      });
    };
    added.find_all(text, false, split_special_tokens, [&](const tok::AddedSpan& span) {
      if (span.token >= 0) return add_token(span.token);
      const std::string_view part = text.substr(span.begin, span.end - span.begin);
      const std::size_t first_bytes = span.begin == 0 ? tok::utf8_length(text[0]) : 0;
      if (!normalizer) return encode_part(part, first_bytes);
      tok::NormalizedText normalized = normalizer->normalize(part, first_bytes, scratch.match);
      if (normalized.text != part) return encode_part(normalized.text, normalized.first_bytes);
      std::string().swap(normalized.text);  // most text is already normalized, and may be long
      encode_part(part, normalized.first_bytes);
    });
  }
};

Tokenizer Tokenizer::from_file(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  const SortedJson json = parse_sorted_json(text, path.string());
  return Tokenizer(
      std::make_shared<const Impl>(tok::JsonField(json, path.string()), hash_of(std::string_view(text)), nullptr));
}

Tokenizer Tokenizer::from_model_dir(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / "tokenizer.json";
  const std::string text = read_file(path);
  const SortedJson json = parse_sorted_json(text, path.string());
  const tok::TokenizerSettings settings = tok::read_tokenizer_settings(dir);
  const tok::JsonField root(json, path.string());
  auto impl = std::make_shared<const Impl>(root, hash_of(std::string_view(text)), &settings);
  if (const std::string mismatch = tok::class_mismatch(root, settings); !mismatch.empty())
    log_common_warning(
        "{}: tokenizer_class is {}, which transformers 5 may build differently from tokenizer.json: {}. adept follows "
        "tokenizer.json; for the same ids, load the tokenizer as PreTrainedTokenizerFast.",
        (dir / "tokenizer_config.json").string(), settings.tokenizer_class, mismatch);
  return Tokenizer(std::move(impl));
}

void Tokenizer::encode(std::string_view text, IdSink sink, bool add_special_tokens) const {
  std::string repaired;
  if (!tok::is_well_formed(text)) text = repaired = tok::replace_ill_formed(text);
  auto scratch = impl_->borrow(text.size());
  tok::IdBuffer out(sink);
  if (add_special_tokens) out.ids() = impl_->front;
  impl_->encode(text, *scratch, out);
  if (add_special_tokens) out.ids().insert(out.ids().end(), impl_->back.begin(), impl_->back.end());
  out.flush();
  impl_->give_back(std::move(scratch));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  encode(
      text, [&](std::span<const std::int32_t> more) { ids.insert(ids.end(), more.begin(), more.end()); },
      add_special_tokens);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const std::int32_t id : ids) {
    if (id < 0) throw DataError("cannot decode the id {}; expected 0 or more.", id);
    const std::string* token = impl_->token_of(id);
    if (token == nullptr || (skip_special_tokens && impl_->added.is_special(*token))) continue;
    tokens.push_back(*token);
  }
  std::string text;
  if (!impl_->decoder) {
    for (const std::string& token : tokens) text.append(&token == tokens.data() ? "" : " ").append(token);
    return text;
  }
  std::size_t bytes = 0;
  for (const std::string& token : tokens) bytes += token.size();
  auto scratch = impl_->borrow(bytes);
  impl_->decoder->decode(tokens, scratch->match);
  impl_->give_back(std::move(scratch));
  for (const std::string& token : tokens) text += token;
  return text;
}

std::int64_t Tokenizer::vocab_size() const {
  return static_cast<std::int64_t>(impl_->model.size() + impl_->added.num_new());
}

std::int32_t Tokenizer::max_token_id() const { return std::max(impl_->model.max_id(), impl_->added.max_id()); }

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const auto added = impl_->added.id_of(token);
  return added ? added : impl_->model.id_of(token);
}

std::optional<std::string> Tokenizer::id_to_token(std::int32_t id) const {
  const std::string* token = impl_->token_of(id);
  return token != nullptr ? std::optional(*token) : std::nullopt;
}

Json Tokenizer::added_tokens() const {
  Json list = Json::array();
  for (const auto& [id, token] : impl_->added.tokens()) list.push_back(tok::to_json(token, id));
  return list;
}

std::int32_t Tokenizer::next_added_id() const { return impl_->added.next_id(impl_->model); }

std::string Tokenizer::normalize(std::string_view text) const {
  if (!impl_->normalizer) return std::string(text);
  auto scratch = impl_->borrow(text.size());
  std::string normalized = impl_->normalizer->normalize(text, 0, scratch->match).text;
  impl_->give_back(std::move(scratch));
  return normalized;
}

const std::string& Tokenizer::fingerprint() const { return impl_->fingerprint; }

}  // namespace adept::data
