#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/core/standard_streams.h"
#include "adept/data/tokenizer/tokenizer.h"
#include "adept/io/hub.h"
#include "adept/model/generate.h"
#include "adept/model/load.h"
#include "adept/run/model_context.h"
#include "adept/train/compute.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/prompt.h"

namespace adept::cli {
namespace {

void print_bytes(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);  // failures are reported at the end
}

struct GenerateOptions {
  std::string model;
  PromptOptions prompt;
  bool no_echo = false, show_special_tokens = false;
  model::GenerateOptions generate;
  config::Compute compute;
};

/// Prints text as tokens arrive, holding back incomplete characters.
class TextStream {
 public:
  /// The text of new tokens is what they add to the text of a few tokens before them, which start with a whole
  /// character.
  TextStream(const data::Tokenizer& tokenizer, std::span<const std::int32_t> prompt, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens), ids_(prompt.begin(), prompt.end()) {
    keep_context();
  }

  void add(std::int64_t token) {
    ids_.push_back(static_cast<std::int32_t>(token));
    const std::string all = text();
    if (all.ends_with(kReplacement)) return;
    print(all);
    if (ids_.size() > 2 * kMaxContext) keep_context();
  }

  void finish() {
    print(text());
    fmt::print("\n");
  }

 private:
  static constexpr std::size_t kContext = 8, kMaxContext = 64;
  static constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD: a part of a character

  std::string text() const { return tokenizer_.decode(ids_, skip_special_tokens_); }

  /// Drops all but the last tokens, whose text is already printed.
  void keep_context() {
    const std::vector<std::int32_t> all = std::move(ids_);
    std::size_t length = std::min(all.size(), kContext);
    std::string context;
    do {
      ids_.assign(all.end() - static_cast<std::ptrdiff_t>(length), all.end());
      context = text();
    } while (context.starts_with(kReplacement) && ++length <= std::min(all.size(), kMaxContext));
    printed_ = context.size();
  }

  void print(const std::string& all) {
    if (all.size() <= printed_) return;
    print_bytes(std::string_view(all).substr(printed_));
    printed_ = all.size();
  }

  const data::Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  std::vector<std::int32_t> ids_;
  std::size_t printed_ = 0;
};

void run(GenerateOptions& options) {
  model::check_generate_options(options.generate);
  check_prompt_options(options.prompt);
  const std::filesystem::path directory = io::resolve_model(options.model);
  const Prompt prompt = read_prompt(options.prompt, directory);
  run::init_compute(options.compute);
  const data::Tokenizer tokenizer = data::Tokenizer::from_model_dir(directory);
  const std::vector<std::int32_t> prompt_ids = tokenizer.encode(prompt.text, prompt.add_special_tokens);
  if (prompt_ids.empty()) throw ConfigError("found a prompt without tokens; expected at least one character of text.");
  model::LoadOptions how = train::load_options(options.compute);
  how.widen_matrices = true;  // decoding processes one token at a time
  const model::Decoder decoder = model::load_decoder(directory, how);
  options.generate.eos_token_ids = model::read_end_tokens(directory, decoder.config());
  run::warn_of_long_sequences(decoder.config(), directory, "prompt plus --max-new-tokens:",
                              std::ssize(prompt_ids) + options.generate.max_new_tokens);
  const std::vector<std::int64_t> ids(prompt_ids.begin(), prompt_ids.end());
  if (!options.no_echo) print_bytes(prompt.text);
  TextStream stream(tokenizer, prompt_ids, !options.show_special_tokens);
  model::generate(decoder, ids, options.generate, [&](std::int64_t token) {
    stream.add(token);
    return pending_signal() == 0 && output_error() == 0;
  });
  stream.finish();
  throw_if_interrupted();
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Generate text from a prompt or a chat");
  add_model_option(*command, options->model);
  add_prompt_options(*command, options->prompt);
  add_count_option(*command, "--max-new-tokens", options->generate.max_new_tokens, 0, 1'000'000'000,
                   "Maximum number of tokens to generate");
  command
      ->add_option("--temperature", options->generate.temperature,
                   "Sampling temperature; 0 always selects the most likely token")
      ->capture_default_str()
      ->type_name("T");
  command
      ->add_option("--top-p", options->generate.top_p,
                   "Sample from the most likely tokens whose total probability is P")
      ->capture_default_str()
      ->type_name("P");
  command->add_option("--seed", options->generate.seed, "Random seed; the same seed generates the same text")
      ->capture_default_str()
      ->type_name("S");
  command->add_flag("--no-echo", options->no_echo, "Print only the generated text, without the prompt");
  command->add_flag(
      "--special-tokens", options->show_special_tokens,
      "Also print special tokens in the generated text, such as EOS; those in the prompt are always printed");
  add_compute_options(*command, options->compute);
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
