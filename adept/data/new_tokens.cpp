#include "adept/data/new_tokens.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/core/log.h"
#include "adept/data/tokenizer/added_tokens.h"
#include "adept/data/utf8.h"
#include "adept/io/line_reader.h"
#include "adept/io/mapped_file.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

constexpr char kAddedTokens[] = "added_tokens";
constexpr std::size_t kMaxListed = 1000, kMaxShown = 5;  // problems; tokens with spaces

// Collects the tokens of a list and the problems of its lines.
class NewTokenList {
 public:
  explicit NewTokenList(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
    for (const Json& token : tokenizer.added_tokens())
      if (token.at("normalized").get<bool>()) {
        const auto content = token.at("content").get<std::string>();
        found_as_.emplace(tokenizer.normalize(content),
                          fmt::format("token {} {}", token.at("id").dump(), io::quote(content)));
      }
  }

  void add(const std::string& token, std::int64_t line) {
    const std::string problem = problem_of(token, line);
    if (problem.empty()) return tokens_.push_back(token);
    if (++num_problems_ <= kMaxListed) problems_.push_back(fmt::format("line {}: {}", line, problem));
  }

  std::vector<std::string> take(const std::filesystem::path& file) && {
    if (num_problems_ > kMaxListed) problems_.push_back(fmt::format("... and {} more", num_problems_ - kMaxListed));
    if (num_problems_ > 0)
      throw DataError("{}: expected one new token per line:\n  {}\nCorrect or remove these lines.", file.string(),
                      fmt::join(problems_, "\n  "));
    if (tokens_.empty()) throw DataError("{}: is empty; expected one new token per line.", file.string());
    return std::move(tokens_);
  }

 private:
  std::string problem_of(const std::string& token, std::int64_t line) {
    if (token.empty()) return "is empty";
    if (find_invalid_utf8(token)) return fmt::format("{} is not valid UTF-8", io::quote(token));
    const auto [earlier, is_new] = lines_.emplace(token, line);
    if (!is_new) return fmt::format("{} is also in line {}", io::quote(token), earlier->second);
    if (const auto id = known_id(token)) return fmt::format("{} is already token {}", io::quote(token), *id);
    const std::string searched = tokenizer_.normalize(token);
    if (searched.empty())
      return fmt::format("{} is empty after normalization, so no text contains it", io::quote(token));
    if (std::max(token.size(), searched.size()) > tok::kMaxAddedTokenBytes)
      return fmt::format("{} is longer than {} bytes", io::quote(token), tok::kMaxAddedTokenBytes);
    const auto [same, is_other] = found_as_.emplace(searched, fmt::format("line {}", line));
    if (!is_other) return fmt::format("{} is the same as {} after normalization", io::quote(token), same->second);
    if (pieces(token).empty()) return fmt::format("{} has no tokens that it could replace", io::quote(token));
    return {};
  }

  // Of a token of the vocabulary with this name, or of the only one that this text becomes. A special one stands for
  // unknown text.
  std::optional<std::int32_t> known_id(const std::string& token) const {
    if (const auto id = tokenizer_.token_to_id(token)) return id;
    const std::vector<std::int32_t> ids = pieces(token);
    if (ids.size() != 1 || tokenizer_.decode(ids, /*skip_special_tokens=*/true).empty()) return std::nullopt;
    return ids.front();
  }

  std::vector<std::int32_t> pieces(const std::string& token) const {
    return tokenizer_.encode(token, /*add_special_tokens=*/false);
  }

  const Tokenizer& tokenizer_;
  std::vector<std::string> tokens_;
  std::map<std::string, std::int64_t> lines_;
  std::map<std::string, std::string> found_as_;  // text that is searched for -> whose it is
  std::vector<std::string> problems_;
  std::size_t num_problems_ = 0;
};

// Position of the closing quote of the string that starts at `begin`.
std::size_t end_of_string(std::string_view json, std::size_t begin) {
  std::size_t end = begin + 1;
  while (json[end] != '"') end += json[end] == '\\' ? 2 : 1;
  return end;
}

// Begin and end of the value of `key` in the object that valid JSON text consists of; without the key, an empty range
// behind the opening brace.
std::pair<std::size_t, std::size_t> find_value(std::string_view json, std::string_view key) {
  const std::size_t open = json.find('{') + 1;
  int depth = 0;
  std::size_t value = 0;  // where the value starts, if it is the one
  std::string last;       // the last string of the outer object
  for (std::size_t i = open - 1; i < json.size(); ++i) {
    const char c = json[i];
    if (value > 0 && depth == 1 && (c == ',' || c == '}')) return {value, i};
    if (c == '"') {
      const std::size_t end = end_of_string(json, i);
      if (depth == 1) last = json.substr(i + 1, end - i - 1);
      i = end;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c == ':' && depth == 1 && last == key) {
      value = i + 1;
    }
  }
  return {open, open};
}

// A list as Hugging Face's files have it, indented as a member of the outer object.
std::string list_text(const Json& list) {
  std::string text = list.dump(2);
  for (std::size_t i = text.find('\n'); i != std::string::npos; i = text.find('\n', i + 1)) text.insert(i + 1, "  ");
  return text;
}

}  // namespace

std::vector<std::string> read_new_tokens(const std::filesystem::path& file, const Tokenizer& tokenizer) {
  io::LineReader reader(file);
  NewTokenList list(tokenizer);
  const auto is_blank = [](char c) { return c == ' ' || c == '\t'; };
  std::vector<std::string> with_spaces;
  for (std::string line; reader.next(line);) {
    list.add(line, reader.line_number());
    if (!line.empty() && (is_blank(line.front()) || is_blank(line.back())))
      with_spaces.push_back(fmt::format("line {} {}", reader.line_number(), io::quote(line)));
  }
  std::vector<std::string> tokens = std::move(list).take(file);
  if (const std::size_t count = with_spaces.size(); count > 0) {
    with_spaces.resize(std::min(count, kMaxShown));
    log_info("{}: {} tokens start or end with a space, which is part of the token: {}{}", file.string(), count,
             fmt::join(with_spaces, ", "), count > kMaxShown ? ", ..." : "");
  }
  return tokens;
}

std::string tokenizer_json_with(const std::filesystem::path& model_dir, const Tokenizer& tokenizer,
                                std::span<const std::string> tokens) {
  Json list = tokenizer.added_tokens();
  std::int64_t id = tokenizer.next_added_id();
  for (const std::string& token : tokens) list.push_back(tok::to_json({.content = token, .normalized = true}, id++));
  const auto bytes = io::MappedFile::open(model_dir / "tokenizer.json");
  std::string text(reinterpret_cast<const char*>(bytes->bytes().data()), bytes->bytes().size());
  const auto [begin, end] = find_value(text, kAddedTokens);
  if (begin < end)
    text.replace(begin, end - begin, " " + list_text(list));
  else
    text.insert(begin, fmt::format("\n  \"{}\": {},", kAddedTokens, list_text(list)));
  return text;
}

}  // namespace adept::data
