#include "adept/data/tokenizer/tokenizer_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <unordered_map>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/log.h"
#include "adept/data/tokenizer/bpe.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxTokens = kMaxTokenId;  // that a file may list
constexpr std::array<std::string_view, 7> kStandardNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                            "pad_token", "cls_token", "mask_token"};

[[noreturn]] void wrong_value(const std::string& where, const Json& value, std::string_view expected) {
  const std::string found = value.is_object()  ? "an object"
                            : value.is_array() ? fmt::format("an array of {}", value.size())
                                               : io::quote(value.is_string() ? value.get<std::string>() : value.dump());
  throw DataError("{} is {}; expected {}.", where, found, expected);
}

bool flag(const Json& token, const char* key, const std::string& where) {
  const auto found = token.find(key);
  if (found == token.end() || found->is_null()) return false;
  if (!found->is_boolean()) wrong_value(where + "." + key, *found, "true or false");
  return found->get<bool>();
}

DeclaredToken read_token(const Json& value, const std::string& where) {
  DeclaredToken token;
  token.where = where;
  if (value.is_string()) {
    token.content = value.get<std::string>();
    token.is_text = true;
    return token;
  }
  const auto content = value.is_object() ? value.find("content") : value.end();
  if (content == value.end() || !content->is_string())
    wrong_value(where, value, "the text of a token, or an object with its \"content\"");
  token.content = content->get<std::string>();
  token.single_word = flag(value, "single_word", where);
  token.lstrip = flag(value, "lstrip", where);
  token.rstrip = flag(value, "rstrip", where);
  token.special = flag(value, "special", where);
  if (value.contains("normalized")) token.normalized = flag(value, "normalized", where);
  return token;
}

/// A value of tokenizer_config.json or special_tokens_map.json, with the file it comes from.
struct Value {
  Json json;
  std::string where;
  bool of_map = false;
};

/// Values by key, in the order in which the keys came first.
struct Values {
  std::vector<std::pair<std::string, Value>> list;
  std::unordered_map<std::string, std::size_t> places;

  void set(const std::string& key, Value value) {
    const auto [place, is_new] = places.try_emplace(key, list.size());
    if (is_new)
      list.emplace_back(key, std::move(value));
    else
      list[place->second].second = std::move(value);
  }
};

bool is_empty(const std::optional<Value>& value) { return !value || value->json.is_null() || value->json.empty(); }

class SettingsReader {
 public:
  explicit SettingsReader(const fs::path& dir) : dir_(dir) {}

  TokenizerSettings read() {
    const Json config = read_object("tokenizer_config.json");
    check_supported(config);
    read_config(config);
    if (settings_.has_added_tokens_decoder) {
      read_added_tokens_decoder(config.at("added_tokens_decoder"));
    } else {
      read_special_tokens_map();
      read_added_tokens();
    }
    collect_named();
    collect_extra();
    return std::move(settings_);
  }

 private:
  std::string where(std::string_view file, std::string_view key) const {
    return fmt::format("{}: {}", (dir_ / file).string(), key);
  }

  Json read_object(std::string_view file) const {
    const fs::path path = dir_ / file;
    if (!is_present(path)) return Json::object();
    Json json = read_json(path, kMaxTokens);
    if (!json.is_object()) throw DataError("{}: expected an object.", path.string());
    return json;
  }

  void check_supported(const Json& config) const {
    if (const auto files = config.find("fast_tokenizer_files"); files != config.end() && files->is_array())
      for (const Json& file : *files)
        if (file.is_string() && file.get<std::string>() != "tokenizer.json")
          throw DataError(
              "{} is {}, a file that transformers reads instead of tokenizer.json; adept reads only tokenizer.json. "
              "Remove the key, and copy that file to tokenizer.json.",
              where("tokenizer_config.json", "fast_tokenizer_files"), io::quote(file.get<std::string>()));
    const auto split = config.find("split_special_tokens");
    if (split != config.end() && !split->is_boolean() && !split->is_null())
      wrong_value(where("tokenizer_config.json", "split_special_tokens"), *split, "true or false");
  }

  void read_config(const Json& config) {
    settings_.has_added_tokens_decoder = config.contains("added_tokens_decoder");
    settings_.split_special_tokens = config.contains("split_special_tokens") && config["split_special_tokens"] == true;
    if (const auto name = config.find("tokenizer_class"); name != config.end() && name->is_string())
      settings_.tokenizer_class = name->get<std::string>();
    if (const auto adds = config.find("add_prefix_space"); adds != config.end() && adds->is_boolean())
      settings_.add_prefix_space = adds->get<bool>();
    for (const auto& [key, json] : config.items()) {
      Value value{json, where("tokenizer_config.json", key)};
      if (key == "additional_special_tokens")
        additional_ = std::move(value);
      else if (key == "extra_special_tokens")
        extra_ = std::move(value);
      else if (is_standard_name(key))
        standard_[key] = std::move(value);
      else if (key.ends_with("_token") && json.is_string())
        explicit_.set(key, std::move(value));
      else if (key.ends_with("_token") && json.is_object())
        automatic_.set(key, std::move(value));
    }
    if (additional_ && is_empty(extra_)) extra_ = std::exchange(additional_, std::nullopt);
    take_named_extra();
    take_model_specific(config);
  }

  // The keys that transformers 5 saves; keys in other places disable them.
  void take_model_specific(const Json& config) {
    constexpr std::string_view kKey = "model_specific_special_tokens";
    const auto tokens = config.find(kKey);
    if (!explicit_.list.empty() || tokens == config.end() || tokens->is_null()) return;
    const std::string place = where("tokenizer_config.json", kKey);
    if (!tokens->is_object()) wrong_value(place, *tokens, "an object of names and tokens");
    for (const auto& [key, json] : tokens->items()) explicit_.set(key, {json, place + "." + key});
  }

  // Extra special tokens in an object have names.
  void take_named_extra() {
    if (!extra_ || !extra_->json.is_object()) return;
    for (const auto& [key, json] : extra_->json.items()) explicit_.set(key, {json, extra_->where + "." + key});
    extra_.reset();
  }

  void read_special_tokens_map() {
    constexpr std::string_view kFile = "special_tokens_map.json";
    const Json map = read_object(kFile);
    for (const auto& [key, json] : map.items()) {
      Value value{json, where(kFile, key), true};
      if (key == "extra_special_tokens" && json.is_array())
        append_extra(std::move(value));
      else if (key == "extra_special_tokens")
        extra_ = std::move(value);
      else if (key == "additional_special_tokens")
        additional_ = std::move(value);
      else if (is_standard_name(key))
        standard_[key] = std::move(value);
      else if (key.ends_with("_token") && (json.is_string() || json.is_object()))
        automatic_.set(key, std::move(value));
    }
    take_named_extra();
  }

  void append_extra(Value more) {
    if (is_empty(extra_)) {
      extra_ = std::move(more);
      return;
    }
    std::set<Json> known(extra_->json.begin(), extra_->json.end());
    for (const Json& token : more.json)
      if (known.insert(token).second) extra_->json.push_back(token);
  }

  void read_added_tokens_decoder(const Json& decoder) {
    const std::string place = where("tokenizer_config.json", "added_tokens_decoder");
    if (decoder.is_null()) return;
    if (!decoder.is_object()) wrong_value(place, decoder, "an object of index: token");
    for (const auto& [key, json] : decoder.items()) {
      std::int64_t index = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
      if (error != std::errc() || end != key.data() + key.size() || index < 0)
        throw DataError("{} has the key {}; expected the id of a token, such as \"32000\".", place, io::quote(key));
      if (!json.is_object()) wrong_value(place + "." + key, json, "an object with the \"content\" of a token");
      settings_.added.insert_or_assign(index, read_token(json, place + "." + key));
    }
  }

  void read_added_tokens() {
    constexpr std::string_view kFile = "added_tokens.json";
    const std::set<std::string> special = special_contents();
    const Json tokens = read_object(kFile);
    for (const auto& [content, json] : tokens.items()) {
      const std::string place = where(kFile, io::quote(content));
      if (!json.is_number_unsigned() || json.get<std::uint64_t>() > static_cast<std::uint64_t>(kMaxTokenId))
        wrong_value(place, json, fmt::format("an id from 0 to {}", kMaxTokenId));
      const bool is_special = special.contains(content);
      const auto [entry, is_new] = settings_.added.insert_or_assign(
          json.get<std::int64_t>(),
          DeclaredToken{.content = content, .where = place, .special = is_special, .normalized = !is_special});
      if (!is_new)
        log_common_warning("{}: an earlier token has the same id and is dropped, as in transformers.", place);
    }
  }

  // Tokens that added_tokens.json declares special. transformers compares them before converting objects to tokens.
  std::set<std::string> special_contents() const {
    std::set<std::string> contents;
    const auto add = [&](const Json& json, bool of_map) {
      if (json.is_string()) contents.insert(json.get<std::string>());
      if (of_map && json.is_object() && json.contains("content") && json["content"].is_string())
        contents.insert(json["content"].get<std::string>());
    };
    for (const auto& [name, value] : standard_) add(value.json, value.of_map);
    if (extra_ && extra_->json.is_array())
      for (const Json& token : extra_->json) add(token, extra_->of_map);
    return contents;
  }

  void collect_named() {
    for (const std::string_view name : kStandardNames)
      if (const auto found = standard_.find(name); found != standard_.end())
        add_named(std::string(name), found->second);
    for (const Values* values : {&automatic_, &explicit_})
      for (const auto& [name, value] : values->list) add_named(name, value);
    sort_named(settings_.named);
  }

  void add_named(const std::string& name, const Value& value) {
    NamedToken named{name, std::nullopt};
    if (!value.json.is_null()) named.token = read_token(value.json, value.where);
    if (named.token && value.of_map && !named.token->is_text) named.token->special = true;
    const auto [place, is_new] = places_.try_emplace(name, settings_.named.size());
    if (is_new)
      settings_.named.push_back(std::move(named));
    else
      settings_.named[place->second] = std::move(named);
  }

  void collect_extra() {
    const std::optional<Value>& list = extra_ ? extra_ : additional_;
    if (!list || list->json.is_null()) return;
    if (!list->json.is_array()) wrong_value(list->where, list->json, "a list of tokens");
    for (std::size_t i = 0; i < list->json.size(); ++i) {
      DeclaredToken token = read_token(list->json[i], fmt::format("{}[{}]", list->where, i));
      if (!token.is_text && (list->of_map || !list->json[i].contains("__type"))) token.special = true;
      settings_.extra.push_back(std::move(token));
    }
  }

  fs::path dir_;
  TokenizerSettings settings_;
  std::map<std::string, Value, std::less<>> standard_;
  Values automatic_, explicit_;  // other keys that end in _token; the second file overrides the first
  std::unordered_map<std::string, std::size_t> places_;  // in settings_.named
  std::optional<Value> extra_, additional_;
};

}  // namespace

std::string DeclaredToken::identity() const {
  if (is_text) return "text " + content;
  return fmt::format("{:d}{:d}{:d}{:d}{:d} {}", single_word, lstrip, rstrip, special, normalized.value_or(!special),
                     content);
}

bool is_standard_name(std::string_view name) {
  return std::find(kStandardNames.begin(), kStandardNames.end(), name) != kStandardNames.end();
}

void sort_named(std::vector<NamedToken>& named) {
  const auto rank = [](const NamedToken& token) {
    return std::find(kStandardNames.begin(), kStandardNames.end(), token.name) - kStandardNames.begin();
  };
  std::stable_sort(named.begin(), named.end(), [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
}

const NamedToken* TokenizerSettings::find(std::string_view name) const {
  const auto has_name = [&](const NamedToken& token) { return token.name == name; };
  const auto found = std::find_if(named.begin(), named.end(), has_name);
  return found == named.end() ? nullptr : &*found;
}

TokenizerSettings read_tokenizer_settings(const fs::path& model_dir) { return SettingsReader(model_dir).read(); }

}  // namespace adept::data::tok
