#include "adept/data/tokenizer/special_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/json.h"
#include "adept/data/tokenizer/bpe.h"
#include "adept/data/tokenizer/json_field.h"
#include "adept/data/tokenizer/tokenizer_settings.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

constexpr std::array kModelFiles = {"generation_config.json", "config.json"};  // that name tokens, by precedence

std::int32_t id_of_token(const tok::DeclaredToken& token, const Tokenizer& tokenizer) {
  const auto id = tokenizer.token_to_id(token.content);
  if (!id)
    throw DataError("{} is {}, which tokenizer.json does not have. The two files do not match.", token.where,
                    io::quote(token.content));
  return *id;
}

std::optional<std::int32_t> id_of_value(const tok::JsonField& field, const Tokenizer& tokenizer) {
  if (field.json().is_array() && field.json().empty()) return std::nullopt;
  const tok::JsonField first = field.json().is_array() ? field.at(std::size_t{0}) : field;
  const auto id = static_cast<std::int32_t>(first.as_integer(0, tok::kMaxTokenId));
  if (!tokenizer.id_to_token(id))
    first.fail(fmt::format("is {}, an id that no token of tokenizer.json has. The two files do not match.", id));
  return id;
}

}  // namespace

std::optional<std::int32_t> load_special_token(const std::filesystem::path& model_dir, const Tokenizer& tokenizer,
                                               std::string_view role) {
  const tok::TokenizerSettings settings = tok::read_tokenizer_settings(model_dir);
  if (const tok::NamedToken* named = settings.find(fmt::format("{}_token", role)))
    return named->token ? std::optional(id_of_token(*named->token, tokenizer)) : std::nullopt;
  const std::string key = fmt::format("{}_token_id", role);
  for (const char* name : kModelFiles) {
    const auto path = model_dir / name;
    if (!is_present(path)) continue;
    const SortedJson json = read_sorted_json(path);
    if (!json.is_object()) throw DataError("{}: expected an object.", path.string());
    if (!json.contains(key)) continue;
    const std::string where = path.string();
    const auto value = tok::JsonField(json, where).find(key);
    return value ? id_of_value(*value, tokenizer) : std::nullopt;
  }
  return std::nullopt;
}

std::vector<std::int32_t> find_end_tokens(const std::filesystem::path& model_dir) {
  std::vector<std::int32_t> ids;
  const auto add = [&](const SortedJson& value) {
    if (value.is_number_unsigned() && value.get<std::uint64_t>() <= static_cast<std::uint64_t>(tok::kMaxTokenId))
      ids.push_back(value.get<std::int32_t>());
  };
  for (const char* name : kModelFiles) {
    const auto path = model_dir / name;
    if (!is_present(path)) continue;
    try {
      const SortedJson json = read_sorted_json(path);
      const SortedJson value = json.is_object() ? json.value("eos_token_id", SortedJson()) : SortedJson();
      add(value);
      if (value.is_array()) std::ranges::for_each(value, add);
    } catch (const DataError&) {  // reported where the file is used
    }
  }
  return ids;
}

std::optional<std::int32_t> find_eos(const std::filesystem::path& model_dir, const Tokenizer& tokenizer) {
  try {
    return load_special_token(model_dir, tokenizer, "eos");
  } catch (const DataError&) {
    return std::nullopt;
  }
}

}  // namespace adept::data
