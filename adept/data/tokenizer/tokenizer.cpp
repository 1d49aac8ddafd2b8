#include "adept/data/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/hash.h"
#include "adept/core/json.h"
#include "adept/data/tokenizer/added_tokens.h"
#include "adept/data/tokenizer/bpe.h"
#include "adept/data/tokenizer/normalizer.h"
#include "adept/data/tokenizer/post_processor.h"
#include "adept/data/tokenizer/pre_tokenizer.h"
#include "adept/data/tokenizer/token_decoder.h"
#include "adept/data/tokenizer/unicode.h"

namespace adept::data {
namespace {

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{1} << 30;
constexpr std::size_t kMaxKeptSymbols = 1 << 20;

std::string read_file(const std::filesystem::path& path) {
  if (!is_present(path))
    throw DataError(
        "{}: cannot be read (there is no such file); expected a tokenizer.json. Files named tokenizer.model or "
        "vocab.json are not read; save them as tokenizer.json with transformers.",
        path.string());
  std::string text = read_all(open_for_reading(path), path, kMaxFileBytes);
  if (text.size() > kMaxFileBytes)
    throw DataError("{}: a tokenizer.json of more than {} bytes is not read.", path.string(), kMaxFileBytes);
  return text;
}

struct Scratch {
  tok::MatchScratch match;
  tok::MergeScratch merge;
};

tok::BpeModel read_model(const tok::JsonField& root) {
  const tok::JsonField model = root.at("model");
  // Old files have no type; then a list of merges tells.
  if (const auto type = model.find("type"); type && type->as_string() != "BPE") type->refuse(type->as_string(), "BPE");
  return tok::BpeModel(model);
}

}  // namespace

struct Tokenizer::Impl {
  std::string fingerprint;
  tok::BpeModel model;
  std::unique_ptr<tok::Normalizer> normalizer;
  std::unique_ptr<tok::PreTokenizer> pre_tokenizer;
  std::unique_ptr<tok::PostProcessor> post_processor;
  std::unique_ptr<tok::TokenDecoder> decoder;
  tok::AddedTokens added;
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<Scratch>> idle;  // guarded by mutex

  Impl(const tok::JsonField& root, std::string hash) : fingerprint(std::move(hash)), model(read_model(root)) {
    root.check_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "model",
                     "decoder", "post_processor"});
    if (const auto version = root.find("version"); version && version->as_string() != "1.0")
      version->refuse(version->as_string(), "1.0");
    if (const auto part = root.find("normalizer")) normalizer = tok::make_normalizer(*part);
    if (const auto part = root.find("pre_tokenizer")) pre_tokenizer = tok::make_pre_tokenizer(*part);
    if (const auto part = root.find("decoder")) decoder = tok::make_token_decoder(*part);
    if (const auto list = root.find("added_tokens")) added = tok::AddedTokens(*list, model, normalizer.get());
    if (const auto part = root.find("post_processor")) {
      post_processor = tok::make_post_processor(*part);
      std::vector<std::int32_t> ids;
      post_processor->collect_ids(ids);
      for (const std::int32_t id : ids)
        if (token_of(id) == nullptr) part->fail(fmt::format("adds the id {}, which no token has.", id));
    }
  }

  // The string that is decoded, or nullptr.
  const std::string* token_of(std::int32_t id) const {
    const tok::AddedToken* token = added.token_of(id);
    return token != nullptr ? &token->pattern : model.token_of(id);
  }

  std::unique_ptr<Scratch> borrow() const {
    {
      const std::lock_guard lock(mutex);
      if (!idle.empty()) {
        auto scratch = std::move(idle.back());
        idle.pop_back();
        return scratch;
      }
    }
    return std::make_unique<Scratch>();
  }

  void give_back(std::unique_ptr<Scratch> scratch) const {
    if (scratch->merge.symbols.capacity() > kMaxKeptSymbols) {
      scratch->merge.symbols = {};
      scratch->merge.heap = {};
    }
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(scratch));
  }

  // Cuts added tokens out of the text, and out of what remains once it is normalized.
  tok::PieceList cut(std::string_view text, Scratch& scratch) const {
    tok::PieceList list;
    list.text.reserve(text.size());
    std::vector<tok::AddedSpan> outer, inner;
    added.find_all(text, false, outer);
    for (const auto& span : outer) {
      if (span.token >= 0) {
        list.pieces.push_back({0, 0, 0, span.token});
        continue;
      }
      tok::NormalizedText part{std::string(text.substr(span.begin, span.end - span.begin)), 0};
      if (span.begin == 0) part.first_bytes = tok::utf8_length(text[0]);
      if (normalizer) normalizer->normalize(part, scratch.match);
      inner.clear();
      added.find_all(part.text, true, inner);
      for (const auto& piece : inner) {
        if (piece.token >= 0)
          list.pieces.push_back({0, 0, 0, piece.token});
        else
          list.append(std::string_view(part.text).substr(piece.begin, piece.end - piece.begin),
                      part.first_bytes > piece.begin ? part.first_bytes - piece.begin : 0);
      }
    }
    return list;
  }
};

Tokenizer Tokenizer::from_file(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  const SortedJson json = parse_sorted_json(text, path.string());
  return Tokenizer(std::make_shared<const Impl>(tok::JsonField(json, path.string()), hash_of(std::string_view(text))));
}

Tokenizer Tokenizer::from_model_dir(const std::filesystem::path& dir) { return from_file(dir / "tokenizer.json"); }

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::string repaired;
  if (!tok::is_well_formed(text)) text = repaired = tok::replace_ill_formed(text);
  auto scratch = impl_->borrow();
  tok::PieceList list = impl_->cut(text, *scratch);
  if (impl_->pre_tokenizer) impl_->pre_tokenizer->split(list, scratch->match);
  std::vector<std::int32_t> ids;
  ids.reserve(list.pieces.size());
  for (const tok::Piece& piece : list.pieces) {
    if (piece.token >= 0)
      ids.push_back(piece.token);
    else
      impl_->model.tokenize(std::string_view(list.text).substr(piece.begin, piece.end - piece.begin), scratch->merge,
                            ids);
  }
  impl_->give_back(std::move(scratch));
  if (impl_->post_processor) impl_->post_processor->process(ids, add_special_tokens);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const std::int32_t id : ids) {
    if (id < 0) throw DataError("cannot decode the id {}; ids are not negative.", id);
    const std::string* token = impl_->token_of(id);
    if (token == nullptr || (skip_special_tokens && impl_->added.is_special(*token))) continue;
    tokens.push_back(*token);
  }
  std::string text;
  if (!impl_->decoder) {
    for (const std::string& token : tokens) text.append(&token == tokens.data() ? "" : " ").append(token);
    return text;
  }
  auto scratch = impl_->borrow();
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

const std::string& Tokenizer::fingerprint() const { return impl_->fingerprint; }

}  // namespace adept::data
