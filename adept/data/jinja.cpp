#include "adept/data/jinja.h"

// The engine is a library, so its headers give no warnings.
#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>
#include <json.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <regex>
#include <sstream>
#include <string_view>
#include <vector>

#include "adept/core/child_process.h"

namespace adept::data {
namespace {

constexpr ChildLimits kLimits = {.seconds = 10, .memory = 1'000'000'000};
constexpr std::int64_t kMaxRange = 100'000;  // as in jinja2's sandbox

/// What strftime_now gives.
enum class Clock { kNow, kFixed };
constexpr std::time_t kFixedTime = 1'721'995'200;  // 2024-07-26 12:00 UTC

int line_of(const std::string& source, std::size_t position) {
  const auto end = source.begin() + static_cast<std::ptrdiff_t>(std::min(position, source.size()));
  return 1 + static_cast<int>(std::count(source.begin(), end, '\n'));
}

/// The first line, without the name of the engine's component.
std::string summary(std::string_view message) {
  message = message.substr(0, message.find('\n'));
  for (const std::string_view speaker : {"lexer: ", "parser: ", "Parser Error: "})
    if (message.starts_with(speaker)) message.remove_prefix(speaker.size());
  return std::string(message);
}

/// The engine quotes the source around the error, with "\n" as an arrow and a caret below; it gives no line number.
int quoted_line(const std::string& source, const std::string& message) {
  std::istringstream lines(message);
  std::string text, quote, caret;
  std::getline(lines, text);
  std::getline(lines, quote);
  std::getline(lines, caret);
  if (quote.size() < 6 || !caret.ends_with('^')) return 0;
  quote = std::regex_replace(quote.substr(3, quote.size() - 6), std::regex("\u21B5"), "\n");
  const std::size_t begin = source.find(quote);
  return begin == std::string::npos ? 0 : line_of(source, begin + caret.size() - 4);
}

/// The program, or the error at the last token of the shortest prefix of the template with the same error.
jinja::program parse(const jinja::lexer_result& lexed) {
  const auto error_of_beginning = [&](std::size_t num_tokens) -> std::string {
    const auto end = lexed.tokens.begin() + static_cast<std::ptrdiff_t>(num_tokens);
    const jinja::lexer_result beginning = {{lexed.tokens.begin(), end}, lexed.source};
    try {
      jinja::parse_from_tokens(beginning);
      return "";
    } catch (const std::exception& error) {
      return error.what();
    }
  };
  try {
    return jinja::parse_from_tokens(lexed);
  } catch (const std::exception& error) {
    std::size_t too_few = 0, enough = lexed.tokens.size();
    while (enough - too_few > 1) {
      const std::size_t middle = too_few + (enough - too_few) / 2;
      (error_of_beginning(middle) == error.what() ? enough : too_few) = middle;
    }
    const int line = enough == 0 ? 1 : line_of(lexed.source, lexed.tokens[enough - 1].pos);
    throw JinjaError(summary(error.what()), line, false);
  }
}

/// "...While executing X at line L, column C in source:...Error: MESSAGE".
JinjaError runtime_error(const std::string& what, const std::optional<std::string>& refusal) {
  std::smatch match;
  const int line = std::regex_search(what, match, std::regex("at line ([0-9]+), column")) ? std::stoi(match[1]) : 0;
  if (refusal) return {*refusal, line, true};
  const auto begin = what.rfind("\nError: ");
  return {summary(begin == std::string::npos ? what : std::string_view(what).substr(begin + 8)), line, false};
}

jinja::lexer_result tokenize_source(const std::string& source) {
  try {
    return jinja::lexer().tokenize(source);
  } catch (const std::exception& error) {
    throw JinjaError(summary(error.what()), quoted_line(source, error.what()), false);
  }
}

// Statements of generation blocks become text.
void mark_generation_blocks(jinja::lexer_result& lexed) {
  using Token = jinja::token;
  std::vector<Token> tokens;
  for (Token& token : lexed.tokens) {
    tokens.push_back(std::move(token));
    const std::size_t n = tokens.size();
    if (n < 3 || tokens[n - 1].t != Token::close_statement || tokens[n - 3].t != Token::open_statement) continue;
    const std::string& name = tokens[n - 2].value;
    if (name != "generation" && name != "endgeneration") continue;
    const Token mark{.t = Token::text,
                     .value = std::string(1, name == "generation" ? kGenerationBegin : kGenerationEnd),
                     .pos = tokens[n - 3].pos};
    tokens.resize(n - 3);
    tokens.push_back(mark);
  }
  lexed.tokens = std::move(tokens);
}

std::string render_here(const jinja::program& program, const std::string& source, const Json& variables, Clock clock) {
  std::optional<std::string> refusal;
  try {
    jinja::context context(source);
    if (clock == Clock::kFixed) context.current_time = kFixedTime;
    jinja::global_from_json(context, variables, /*mark_input=*/false);
    const auto define = [&](const std::string& name, const jinja::func_handler& function) {
      context.set_val(name, jinja::mk_val<jinja::value_func>(name, function));
    };
    define("raise_exception", [&](const jinja::func_args& arguments) -> jinja::value {
      refusal = arguments.get_pos(0)->as_string().str();
      throw std::runtime_error(*refusal);
    });
    define("range", [](const jinja::func_args& arguments) -> jinja::value {
      for (const jinja::value& bound : arguments.get_args())
        if (jinja::is_val<jinja::value_int>(bound) && std::abs(bound->as_int()) > kMaxRange)
          throw std::runtime_error("range() of more than 100,000 items");
      return jinja::global_builtins().at("range")(arguments);
    });
    const jinja::value_array parts = jinja::runtime(context).execute(program);
    return jinja::runtime::gather_string_parts(parts)->as_string().str();
  } catch (const std::exception& error) {
    throw runtime_error(error.what(), refusal);
  }
}

// In the child's answer a result is "KIND LINE SIZE " and SIZE bytes: a text (t), an error of the engine (e) or of the
// template (r).
std::string packed(char kind, int line, std::string_view text) {
  return kind + (" " + std::to_string(line)) + " " + std::to_string(text.size()) + " " + std::string(text);
}

std::string packed_result(const jinja::program& program, const std::string& source, const Json& variables,
                          Clock clock) {
  try {
    return packed('t', 0, render_here(program, source, variables, clock));
  } catch (const JinjaError& error) {
    return packed(error.refused ? 'r' : 'e', error.line, error.what());
  } catch (const std::exception& error) {
    return packed('e', 0, error.what());
  }
}

JinjaResult unpacked(std::istringstream& answer) {
  char kind = '\0';
  int line = 0;
  std::size_t size = 0;
  answer >> kind >> line >> size;
  answer.get();
  std::string text(size, '\0');
  answer.read(text.data(), static_cast<std::streamsize>(size));
  if (kind == 't') return {std::move(text), {}};
  return {"", JinjaError(text, line, kind == 'r')};
}

std::vector<JinjaResult> render_each(const std::string& source, std::span<const Json> variables, Clock clock,
                                     GenerationBlocks blocks) {
  const auto work = [&] {
    std::string answer;
    if (clock == Clock::kFixed) ::setenv("TZ", "UTC0", 1);  // of the child
    try {
      jinja::lexer_result lexed = tokenize_source(source);
      if (blocks == GenerationBlocks::kMarked) mark_generation_blocks(lexed);
      const jinja::program program = parse(lexed);
      for (const Json& each : variables) answer += packed_result(program, lexed.source, each, clock);
    } catch (const JinjaError& error) {
      answer.clear();
      for (std::size_t i = 0; i < variables.size(); ++i) answer += packed('e', error.line, error.what());
    }
    return answer;
  };
  std::vector<JinjaResult> results;
  try {
    std::istringstream answer(run_in_child(work, kLimits));
    for (std::size_t i = 0; i < variables.size(); ++i) results.push_back(unpacked(answer));
  } catch (const ChildFailure& failure) {
    if (variables.size() == 1) return {{"", JinjaError(std::string("it ") + failure.what(), 0, false)}};
    results.clear();  // one of them did it
    for (const Json& each : variables)
      results.push_back(std::move(render_each(source, {&each, 1}, clock, blocks).front()));
  }
  return results;
}

}  // namespace

std::string render_jinja(const std::string& source, const Json& variables) {
  JinjaResult result = std::move(render_each(source, {&variables, 1}, Clock::kNow, GenerationBlocks::kIgnored).front());
  if (result.error) throw JinjaError(*result.error);
  return std::move(result.text);
}

std::vector<JinjaResult> render_jinja_each(const std::string& source, std::span<const Json> variables,
                                           GenerationBlocks blocks) {
  return render_each(source, variables, Clock::kFixed, blocks);
}

}  // namespace adept::data
