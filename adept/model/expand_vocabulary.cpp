// Legend: V vocabulary, D hidden_size.
#include "adept/model/expand_vocabulary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <iterator>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/data/new_tokens.h"
#include "adept/data/tokenizer/tokenizer.h"
#include "adept/io/companion_files.h"
#include "adept/io/mapped_file.h"
#include "adept/io/record.h"
#include "adept/io/text_quote.h"
#include "adept/io/weight_files.h"
#include "adept/model/config.h"
#include "adept/model/load.h"
#include "adept/model/save.h"
#include "adept/model/torch_tensors.h"
#include "adept/model/weight_names.h"

namespace adept::model {
namespace {

namespace fs = std::filesystem;

constexpr int kRecordVersion = 1;
constexpr char kTokenizerFile[] = "tokenizer.json";

using Pieces = std::vector<std::vector<std::int64_t>>;  // the old ids of each new token

Pieces pieces_of(const data::Tokenizer& tokenizer, std::span<const std::string> tokens) {
  Pieces pieces;
  for (const std::string& token : tokens) {
    const std::vector<std::int32_t> ids = tokenizer.encode(token, /*add_special_tokens=*/false);
    pieces.emplace_back(ids.begin(), ids.end());
  }
  return pieces;
}

// A table (V, D) with rows for the new tokens.
at::Tensor with_rows(const at::Tensor& table, const ExpandedVocabulary& vocabulary, const Pieces& pieces) {
  at::Tensor result = at::empty({vocabulary.rows, table.size(1)}, table.options());
  result.narrow(0, 0, vocabulary.old_rows).copy_(table);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const at::Tensor rows = table.index_select(0, at::tensor(pieces[i], at::kLong));
    result.select(0, vocabulary.tokens[i].id).copy_(rows.to(at::kDouble).mean(0));
  }
  return result;
}

void check_rows(const fs::path& dir, const data::Tokenizer& tokenizer, std::int64_t rows) {
  if (tokenizer.max_token_id() >= rows)
    throw DataError(
        "{}: {} has token ids up to {}, but the embedding has {} rows; expected a row for each token. The files belong "
        "to different models.",
        dir.string(), kTokenizerFile, tokenizer.max_token_id(), rows);
}

// Ids follow from the order of tokens; those of a vocabulary with gaps may depend on how many files list them.
void check_ids(const fs::path& model_dir, const fs::path& new_dir, const data::Tokenizer& old,
               std::span<const NewToken> tokens) {
  const data::Tokenizer now = data::Tokenizer::from_file(new_dir / kTokenizerFile);
  const auto check = [&](const std::string& token, std::int64_t id) {
    if (const auto found = now.token_to_id(token); found != id)
      throw DataError("{}: cannot get new tokens: {} has the id {} but would get {}. Its ids have gaps; renumber them.",
                      (model_dir / kTokenizerFile).string(), io::quote(token), id,
                      found ? std::to_string(*found) : "none");
  };
  for (const Json& token : old.added_tokens())
    check(token.at("content").get<std::string>(), token.at("id").get<std::int64_t>());
  for (const NewToken& token : tokens) {
    if (const auto owner = old.id_to_token(static_cast<std::int32_t>(token.id)))
      throw DataError("{}: cannot get new tokens: the next id {} belongs to {}. Its ids have gaps; renumber them.",
                      (model_dir / kTokenizerFile).string(), token.id, io::quote(*owner));
    check(token.text, token.id);
  }
}

void copy_records(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("adept_") && name.ends_with(".json"))
      io::write_file_atomically(to / name, io::MappedFile::open(entry.path())->bytes());
  }
}

void write_record(const fs::path& dir, std::vector<NewToken> tokens) {
  std::ranges::sort(tokens, {}, &NewToken::id);
  Json list = Json::array();
  for (const NewToken& token : tokens) list.push_back({{"id", token.id}, {"token", token.text}});
  io::write_record(dir / io::kAddedTokensRecord, {{"version", kRecordVersion}, {"tokens", list}});
}

}  // namespace

std::int64_t ExpandedVocabulary::num_spare() const {
  return std::ranges::count_if(tokens, [&](const NewToken& token) { return token.id < old_rows; });
}

ExpandedVocabulary expand_vocabulary(const fs::path& model_dir, const fs::path& out_dir,
                                     std::span<const std::string> tokens, io::OnExisting on_existing) {
  const ModelConfig config = read_model_config(model_dir);
  const io::WeightFiles files = open_weights(config, model_dir);
  check_weights(config, files);
  const data::Tokenizer tokenizer = data::Tokenizer::from_model_dir(model_dir);
  check_rows(model_dir, tokenizer, config.vocab_size);
  std::vector<NewToken> all = added_tokens_of(model_dir, config.vocab_size);

  const Pieces pieces = pieces_of(tokenizer, tokens);
  ExpandedVocabulary result{.tokens = {}, .old_rows = config.vocab_size, .rows = config.vocab_size};
  for (const std::string& token : tokens)
    result.tokens.push_back({.id = tokenizer.next_added_id() + std::ssize(result.tokens), .text = token});
  if (!result.tokens.empty()) result.rows = std::max(result.rows, result.tokens.back().id + 1);
  for (const auto& ids : pieces) result.num_pieces += std::ssize(ids);

  std::vector<io::TensorView> views;
  for (const std::string& name : files.names()) {
    views.push_back(files.at(name));
    if (name == kEmbeddingName || name == kHeadName) views.back().shape.front() = result.rows;
  }
  at::Tensor table;  // one at a time
  const auto read = [&](const io::TensorView& view) -> std::span<const std::byte> {
    const io::TensorView& stored = files.at(view.name);
    if (view.name != kEmbeddingName && view.name != kHeadName) return stored.data;
    table = with_rows(as_tensor(stored, files.owner(view.name)), result, pieces);
    return as_view(view.name, table).data;
  };
  Json new_config = config.source;
  new_config["vocab_size"] = result.rows;

  io::AtomicDirectory directory(out_dir, on_existing);
  write_model_files(directory.path(), views, new_config, model_dir, read);
  copy_records(model_dir, directory.path());
  io::write_file_atomically(directory.path() / kTokenizerFile, data::tokenizer_json_with(model_dir, tokenizer, tokens));
  check_ids(model_dir, directory.path(), tokenizer, result.tokens);
  all.insert(all.end(), result.tokens.begin(), result.tokens.end());
  write_record(directory.path(), std::move(all));
  directory.commit();
  return result;
}

std::vector<NewToken> added_tokens_of(const fs::path& model_dir, std::int64_t vocab_size) {
  const fs::path path = model_dir / io::kAddedTokensRecord;
  if (!is_present(path)) return {};
  const Json json = io::read_record(path);
  const auto damaged = [&](const std::string& found) {
    return DataError("{}: {}. Repeat adept expand-vocab on the model without these tokens.", path.string(), found);
  };
  if (const Json version = json.value("version", Json()); version != kRecordVersion)
    throw damaged(fmt::format("version is {}; this build reads version {}", brief(version), kRecordVersion));
  std::vector<NewToken> tokens;
  try {
    for (const Json& token : json.at("tokens"))
      tokens.push_back({.id = token.at("id").get<std::int64_t>(), .text = token.at("token").get<std::string>()});
  } catch (const Json::exception&) {
    throw damaged("tokens is not a list of an id and a token each");
  }
  std::int64_t next = 0;
  for (const NewToken& token : tokens) {
    if (token.id < next || token.id >= vocab_size)
      throw damaged(fmt::format("{} has the id {}; expected ascending ids below {}, the vocabulary of the model",
                                io::quote(token.text), token.id, vocab_size));
    next = token.id + 1;
  }
  return tokens;
}

}  // namespace adept::model
