#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <optional>
#include <span>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/core/signals.h"
#include "adept/core/standard_streams.h"
#include "adept/data/chat_template.h"
#include "adept/data/source_counts.h"
#include "adept/data/text_encoder.h"
#include "adept/data/text_source.h"
#include "adept/data/tokenizer/tokenizer.h"
#include "adept/io/atomic_file.h"
#include "adept/io/hub.h"
#include "adept/run/text.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct TokenizeOptions {
  std::string model, out;
  std::optional<std::string> text;
  DataOptions data;
};

/// Standard output, or a file that appears when it is complete.
class LineWriter {
 public:
  explicit LineWriter(const std::string& out) {
    if (!out.empty()) file_.emplace(out, io::SpecialFile::kWriteThrough);
  }
  void write(const std::string& line) {
    if (file_)
      file_->write(line);
    else
      fmt::print("{}", line);
  }
  void finish() {
    if (file_) file_->commit();
  }

 private:
  std::optional<io::AtomicFile> file_;
};

// Writes one line while the ids arrive. Returns their number.
std::int64_t write_ids(const data::TextEncoder& encoder, const std::string& text, LineWriter& writer) {
  std::int64_t count = 0;
  encoder.encode(text, [&](std::span<const std::int32_t> ids) {
    throw_if_interrupted();
    writer.write(fmt::format("{}{}", count == 0 ? "[" : ids.empty() ? "" : ", ", fmt::join(ids, ", ")));
    count += std::ssize(ids);
  });
  writer.write("]\n");
  return count;
}

data::SourceCounts tokenize(const data::TextEncoder& encoder, const data::TextSource& source, LineWriter& writer) {
  data::DocumentReader reader(source, encoder.chat.get());
  Progress progress("tokenize", 0, {.counts = "documents", .source = source.name});
  std::int64_t tokens = 0;
  for (std::string text; reader.next(text);) {
    try {
      tokens += write_ids(encoder, text, writer);
    } catch (const DataError& error) {
      throw DataError("{}: {}", reader.position(), error.what());
    }
    if (output_error() != 0) break;  // run_program reports it
    progress.update(reader.counts().documents, tokens);
  }
  progress.finish(fmt::format("{} tokens", format_count(tokens)));
  data::SourceCounts counts = reader.counts();
  counts.tokens = tokens;
  return counts;
}

void run(const TokenizeOptions& options) {
  if (options.text.has_value() == !options.data.data.empty())
    throw ConfigError("adept tokenize: found {}; expected exactly one of them.",
                      options.text ? "both --text and --data" : "neither --text nor --data");
  if (options.text) require_utf8("--text", *options.text);
  check_data(sources(options.data), options.out);
  const std::filesystem::path model = io::resolve_model(options.model);
  check_output_is_not_of_model(options.out, model);
  const data::Tokenizer tokenizer = data::Tokenizer::from_model_dir(model);
  const std::int64_t vocab_size = std::int64_t{tokenizer.max_token_id()} + 1;
  const data::TextEncoder encoder =
      options.data.source.messages_field && !options.text
          ? data::make_chat_encoder(tokenizer, vocab_size, data::ChatTemplate::from_model_dir(model))
          : data::make_text_encoder(tokenizer, vocab_size);
  LineWriter writer(options.out);
  if (options.text) {
    write_ids(encoder, *options.text, writer);
    return writer.finish();
  }
  std::vector<data::NamedCounts> counts;
  for (const data::TextSource& source : sources(options.data))
    counts.push_back({source.name, tokenize(encoder, source, writer)});
  writer.finish();
  log_table(data::format_source_table(counts));
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command =
      app.add_subcommand("tokenize", "Print the token ids of text as JSON lists, one document per line");
  add_model_option(*command, options->model);
  command->add_option("--text", options->text, "Text to tokenize, as one document")->type_name("STRING");
  add_data_options(*command, options->data);
  command->get_option("--data")->required(false);
  command->add_option("--out", options->out, "Output file for the ids; default: standard output")->type_name("FILE");
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
