#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "adept/data/new_tokens.h"
#include "adept/io/hub.h"
#include "adept/model/expand_vocabulary.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct ExpandVocabOptions {
  std::string model, tokens, out;
  bool force = false;
};

void run(const ExpandVocabOptions& options) {
  const std::filesystem::path dir = io::resolve_model(options.model);
  check_output_directory(options.out, {dir, options.tokens}, options.force);
  const std::vector<std::string> tokens = data::read_new_tokens(options.tokens, data::Tokenizer::from_model_dir(dir));
  const model::ExpandedVocabulary added = model::expand_vocabulary(
      dir, options.out, tokens, options.force ? io::OnExisting::kReplace : io::OnExisting::kFail);
  const auto count = std::ssize(added.tokens);
  fmt::print("added {} tokens, ids {} to {}, which replace {:.1f} tokens each on average\n", count,
             added.tokens.front().id, added.tokens.back().id,
             static_cast<double>(added.num_pieces) / static_cast<double>(count));
  const std::string rows = added.rows == added.old_rows
                               ? fmt::format("keeps its {} rows", added.rows)
                               : fmt::format("grows from {} to {} rows", added.old_rows, added.rows);
  fmt::print("the embedding {}: {} of the new tokens use rows that had no token\nwrote {}\n", rows, added.num_spare(),
             options.out);
}

}  // namespace

void add_expand_vocab_command(CLI::App& app) {
  auto options = std::make_shared<ExpandVocabOptions>();
  CLI::App* command =
      app.add_subcommand("expand-vocab", "Add tokens to a model, each starting as the mean of the tokens it replaces");
  add_model_option(*command, options->model);
  command->add_option("--tokens", options->tokens, "Tokens to add, one per line")->required()->type_name("FILE");
  command->add_option("--out", options->out, "Output directory for the model with these tokens")
      ->required()
      ->type_name("DIR");
  command->add_flag("--force", options->force, "Replace --out if it exists");
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
