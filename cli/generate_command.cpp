#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/data/tokenizer/special_tokens.h"
#include "adept/data/tokenizer/tokenizer.h"
#include "adept/io/hub.h"
#include "adept/model/generate.h"
#include "adept/model/load.h"
#include "adept/model/torch_tensors.h"
#include "adept/run/model_context.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct Options {
  std::string model, prompt;
  model::GenerateOptions generate;
  config::Compute compute;
};

/// Prints text as tokens arrive, holding back what may still be half a character.
class TextStream {
 public:
  TextStream(const data::Tokenizer& tokenizer, std::vector<std::int32_t> prompt)
      : tokenizer_(tokenizer), ids_(std::move(prompt)) {
    print_new();
  }

  void add(std::int64_t token) {
    ids_.push_back(static_cast<std::int32_t>(token));
    print_new();
  }

  void finish() {
    print(tokenizer_.decode(ids_, /*skip_special_tokens=*/true));
    fmt::print("\n");
  }

 private:
  void print_new() {
    const std::string text = tokenizer_.decode(ids_, /*skip_special_tokens=*/true);
    if (!text.ends_with("\xEF\xBF\xBD")) print(text);  // U+FFFD: the rest of a character is still to come
  }

  void print(const std::string& text) {
    if (text.size() <= printed_) return;
    fmt::print("{}", text.substr(printed_));
    std::fflush(stdout);
    printed_ = text.size();
  }

  const data::Tokenizer& tokenizer_;
  std::vector<std::int32_t> ids_;
  std::size_t printed_ = 0;
};

void run(Options& options) {
  model::check_generate_options(options.generate);
  require_utf8("--prompt", options.prompt);
  run::init_compute(options.compute);
  const std::filesystem::path directory = io::resolve_model(options.model);
  const data::Tokenizer tokenizer = data::Tokenizer::from_model_dir(directory);
  model::LoadedModel loaded = model::load_model(directory, {.dtype = model::to_scalar_type(options.compute.dtype),
                                                            .device = run::to_device(options.compute.device),
                                                            .widen_matrices = true});  // a token at a time
  options.generate.eos_token_ids = model::read_end_tokens(directory, loaded.config);
  const model::Decoder decoder(std::move(loaded.config), std::move(loaded.weights));
  const std::vector<std::int32_t> prompt = tokenizer.encode(options.prompt);
  const std::vector<std::int64_t> ids(prompt.begin(), prompt.end());
  TextStream stream(tokenizer, prompt);
  model::generate(decoder, ids, options.generate, [&](std::int64_t token) {
    stream.add(token);
    return pending_signal() == 0;
  });
  stream.finish();
  throw_if_interrupted();
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text with a model");
  add_model_option(*command, options->model);
  command->add_option("--prompt", options->prompt, "Text to continue")->required()->type_name("TEXT");
  command->add_option("--max-new-tokens", options->generate.max_new_tokens, "Tokens to add at most")
      ->capture_default_str()
      ->type_name("N");
  command->add_option("--temperature", options->generate.temperature, "0: the likeliest token; higher: more variety")
      ->capture_default_str()
      ->type_name("T");
  command->add_option("--top-p", options->generate.top_p, "Sample from the likeliest tokens of this total probability")
      ->capture_default_str()
      ->type_name("P");
  command->add_option("--seed", options->generate.seed, "The same seed gives the same text")
      ->capture_default_str()
      ->type_name("S");
  add_compute_options(*command, options->compute);
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
