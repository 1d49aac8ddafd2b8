#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/core/signals.h"
#include "adept/core/standard_streams.h"
#include "adept/data/chat_template.h"
#include "adept/data/interchange/megatron.h"
#include "adept/data/interchange/token_files.h"
#include "adept/data/source_counts.h"
#include "adept/data/store/token_store.h"
#include "adept/data/text_encoder.h"
#include "adept/data/text_source.h"
#include "adept/data/tokenize.h"
#include "adept/data/tokenizer/special_tokens.h"
#include "adept/data/tokenizer/tokenizer.h"
#include "adept/io/atomic_file.h"
#include "adept/io/hub.h"
#include "adept/run/measure.h"
#include "adept/run/token_cache.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::array kOutputFormats = {"jsonl", "store", "megatron"};

struct TokenizeOptions {
  std::string model, out, out_format;
  std::optional<std::string> text;
  DataOptions data;
  std::int64_t threads = 0;
  std::int64_t shard_bytes = data::StoreOptions().shard_bytes;
  bool verify = false;
  bool force = false;
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

/// Documents of a source of tokens as lines.
class LineSink : public data::TokenSink {
 public:
  explicit LineSink(LineWriter& writer) : writer_(writer) {}
  void append(std::span<const std::int32_t> ids) override {
    writer_.write(fmt::format("{}{}", is_first_ ? "[" : ", ", fmt::join(ids, ", ")));
    is_first_ = false;
    num_tokens += std::ssize(ids);
  }
  void end_document(std::int64_t bytes, const data::Untrained& untrained, data::PlaceInSource) override {
    data::refuse_untrained(untrained, "a JSON list");
    writer_.write("]\n");
    is_first_ = true;
    ++num_documents;
    num_bytes += bytes;
  }
  std::int64_t num_tokens = 0, num_documents = 0, num_bytes = 0;

 private:
  LineWriter& writer_;
  bool is_first_ = true;
};

data::SourceCounts write_lines(const data::TextEncoder& encoder, const data::TextSource& source, LineWriter& writer) {
  if (data::find_token_files(source)) {
    LineSink sink(writer);
    data::SourceCounts counts = data::tokenize_into(sink, source, encoder).counts;
    counts.documents = sink.num_documents;
    counts.tokens = sink.num_tokens;
    counts.bytes = sink.num_bytes;
    return counts;
  }
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

// A token store, and beside its files the list of skipped records.
data::SourceCounts write_store(const data::TextEncoder& encoder, const data::TextSource& source,
                               const TokenizeOptions& options) {
  if (const auto tokens = data::find_token_files(source); tokens && tokens->format == data::TokenFormat::kStore)
    throw ConfigError("--data {}: is a token store already; expected text, or tokens of another program.",
                      tokens->parts.front().string());
  const auto on_other = options.force ? data::OnOtherStore::kReplace : data::OnOtherStore::kFail;
  const data::TokenizeOptions how{.num_threads = static_cast<int>(options.threads),
                                  .store = {.shard_bytes = options.shard_bytes, .on_other = on_other}};
  const auto build = [&] {
    Progress progress("tokenize", 0, {.counts = "bytes", .source = source.name});
    try {
      return data::tokenize_to_store(options.out, source, encoder, how, progress);
    } catch (const InterruptedError& error) {
      throw run::interrupted(error, fmt::format("finished shards are kept in {}", options.out));
    }
  };
  data::TokenDataset dataset = build();
  if (options.verify) {
    Progress progress("verify", 0, {.counts = "tokens", .source = source.name});
    if (!data::verify_or_discard(options.out, source, on_other, progress)) dataset = build();
  }
  data::write_skipped(fs::path(options.out) / "skipped.jsonl", dataset.info().skipped);
  return dataset.counts();
}

data::SourceCounts write_megatron(const data::TextEncoder& encoder, const data::TextSource& source,
                                  const TokenizeOptions& options) {
  if (!encoder.eos)
    throw DataError(
        "{}: has no EOS token; expected eos_token in tokenizer_config.json, which ends each document in the "
        "files of Megatron-Core.",
        options.model);
  Progress progress("tokenize", 0, {.counts = "bytes", .source = source.name});
  /// Counts what it passes on.
  class CountingWriter : public data::MegatronWriter {
   public:
    using data::MegatronWriter::MegatronWriter;
    void append(std::span<const std::int32_t> ids) override {
      data::MegatronWriter::append(ids);
      counts.tokens += std::ssize(ids);
    }
    void end_document(std::int64_t bytes, const data::Untrained& untrained, data::PlaceInSource place) override {
      data::MegatronWriter::end_document(bytes, untrained, place);
      ++counts.documents;
      counts.bytes += bytes;
    }
    data::SourceCounts counts;
  } writer(options.out, encoder.vocab_size, *encoder.eos);
  data::SourceCounts counts =
      data::tokenize_into(writer, source, encoder, {.num_threads = static_cast<int>(options.threads)}, progress).counts;
  writer.finish();
  counts.documents = writer.counts.documents;
  counts.tokens = writer.counts.tokens;
  counts.bytes = writer.counts.bytes;
  return counts;
}

// A file or a pipe that exists receives lines, as one called .jsonl.
std::string output_format(const TokenizeOptions& options) {
  if (!options.out_format.empty()) return options.out_format;
  std::error_code error;
  const fs::path out = options.out;
  const bool is_file = fs::exists(out, error) && !fs::is_directory(out, error);
  return out.empty() || is_file || out.extension() == ".jsonl" || out.extension() == ".json" ? "jsonl" : "store";
}

void check_output(const TokenizeOptions& options, const std::string& format, const fs::path& model,
                  const std::vector<data::TextSource>& texts) {
  if (format != "store" && (options.verify || options.force))
    throw ConfigError("{}: found together with --out-format {}; expected a token store.",
                      options.verify ? "--verify" : "--force", format);
  if (format != "store" && options.data.source.train_on == data::TrainOn::kAssistant)
    throw ConfigError(
        "--train-on assistant: found together with --out-format {}, which has no place for tokens that are context "
        "only; expected a token store (--out STORE), or --train-on all.",
        format);
  if (format == "jsonl") return check_output_is_not_of_model(options.out, model);
  if (options.out.empty() || options.text)
    throw ConfigError("--out-format {}: found {}; expected --out and --data.", format,
                      options.text ? "--text" : "no --out");
  if (texts.size() != 1)
    throw ConfigError(
        "--out-format {}: found {} sources; expected one. Give paths of one source the same name: --data NAME=PATH, or "
        "write one output per source.",
        format, texts.size());
  if (format == "store") return;
  std::error_code error;
  for (const char* suffix : {".bin", ".idx"}) {
    const std::string file = options.out + suffix;
    check_output_is_not_of_model(file, model);
    for (const fs::path& input : data::find_files(texts.front()).files)
      if (fs::weakly_canonical(input, error) == fs::weakly_canonical(file, error))
        throw ConfigError("--out {}: {} is an input of the source \"{}\"; expected a separate path.", options.out, file,
                          texts.front().name);
  }
}

data::TextEncoder encoder_of(const TokenizeOptions& options, const fs::path& model) {
  const data::Tokenizer tokenizer = data::Tokenizer::from_model_dir(model);
  const std::int64_t vocab_size = std::int64_t{tokenizer.max_token_id()} + 1;
  data::TextEncoder encoder =
      options.data.source.messages_field && !options.text
          ? data::make_chat_encoder(tokenizer, vocab_size, data::ChatTemplate::from_model_dir(model))
          : data::make_text_encoder(tokenizer, vocab_size);
  encoder.eos = data::find_eos(model, tokenizer);
  encoder.end_tokens = data::find_end_tokens(model);
  return encoder;
}

void run(const TokenizeOptions& options) {
  if (options.text.has_value() == !options.data.data.empty())
    throw ConfigError("adept tokenize: found {}; expected exactly one of them.",
                      options.text ? "both --text and --data" : "neither --text nor --data");
  if (options.text) require_utf8("--text", *options.text);
  const std::vector<data::TextSource> texts = sources(options.data);
  check_data(texts, options.out);
  const fs::path model = io::resolve_model(options.model);
  const std::string format = output_format(options);
  check_output(options, format, model, texts);
  const data::TextEncoder encoder = encoder_of(options, model);
  std::vector<data::NamedCounts> counts;
  if (format == "store") {
    counts.push_back({texts.front().name, write_store(encoder, texts.front(), options)});
  } else if (format == "megatron") {
    counts.push_back({texts.front().name, write_megatron(encoder, texts.front(), options)});
  } else {
    LineWriter writer(options.out);
    if (options.text) write_ids(encoder, *options.text, writer);
    for (const data::TextSource& source : texts) counts.push_back({source.name, write_lines(encoder, source, writer)});
    writer.finish();
  }
  if (!counts.empty()) log_table(data::format_source_table(counts));
  for (const auto& [name, count] : counts)
    if (count.documents == 0)
      log_warning(
          "source \"{}\": no document was read{}", name,
          count.num_skipped() > 0
              ? fmt::format("; all {} records were skipped, for the reasons above. Check the names of the fields",
                            format_count(count.num_skipped()))
              : "");
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Tokenize text: into a token store for training, or to look at");
  add_model_option(*command, options->model);
  command->add_option("--text", options->text, "Text to tokenize, as one document")->type_name("STRING");
  add_data_options(*command, options->data);
  command->get_option("--data")->required(false);
  command->add_option("--out", options->out, "Output: a directory, a file or a prefix, see --out-format")
      ->type_name("FILE");
  const auto check = [](const std::string& name) {
    const bool is_known = std::find(kOutputFormats.begin(), kOutputFormats.end(), name) != kOutputFormats.end();
    return is_known ? "" : fmt::format("found \"{}\"; expected one of {}", name, fmt::join(kOutputFormats, ", "));
  };
  command
      ->add_option(
          "--out-format", options->out_format,
          "jsonl: a JSON list per document (default without --out, and for .jsonl files); store: a token store, "
          "which is resumed after an interrupt; megatron: PREFIX.bin and PREFIX.idx of Megatron-Core")
      ->check(CLI::Validator(check, "", ""))
      ->type_name(fmt::format("{}", fmt::join(kOutputFormats, "|")));
  add_count_option(*command, "--threads", options->threads, 0, 1024, "Number of tokenizer threads; 0 uses all cores");
  add_count_option(*command, "--shard-bytes", options->shard_bytes, 1, std::int64_t{1} << 40,
                   "Size of ids at which a file of a new token store ends, after its document");
  command->add_flag("--verify", options->verify,
                    "Check all of the token store, and the hash of the text it was made of");
  command->add_flag("--force", options->force, "Replace a token store of other text, options or tokenizer");
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
