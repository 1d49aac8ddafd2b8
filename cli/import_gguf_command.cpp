#include <fmt/format.h>

#include <memory>
#include <string>

#include "adept/core/progress.h"
#include "adept/model/gguf/import.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct ImportGgufOptions {
  std::string gguf;
  std::string out;
  std::string dtype = "fp32";
  bool force = false;
};

void run(const ImportGgufOptions& options) {
  model::ImportGgufOptions import;
  import.dtype = options.dtype == "bf16" ? DType::kBF16 : options.dtype == "fp16" ? DType::kF16 : DType::kF32;
  import.replace_existing = options.force;
  Progress progress("import", 0, {.counts = "tensors", .rate_unit = ""});
  check_output_directory(options.out, {options.gguf}, options.force);
  const model::ImportedModel model = model::import_gguf(options.gguf, options.out, import, progress);
  fmt::print("{}: {}, {} layers, {} parameters as {}, vocabulary {}, pre-tokenizer {}\n", options.out, model.model_type,
             model.num_layers, format_count(model.num_parameters), options.dtype, format_count(model.vocab_size),
             model.pre_tokenizer);
}

}  // namespace

void add_import_gguf_command(CLI::App& app) {
  auto options = std::make_shared<ImportGgufOptions>();
  CLI::App* command = app.add_subcommand("import-gguf", "Convert a GGUF file to a Hugging Face model directory");
  command->add_option("--gguf", options->gguf, "GGUF model file, as used by llama.cpp")->required()->type_name("FILE");
  command->add_option("--out", options->out, "Output directory for the model")->required()->type_name("DIR");
  command->add_option("--dtype", options->dtype, "Dtype of the weights; fp32 keeps the dequantized values exactly")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}))
      ->type_name("fp32|bf16|fp16")
      ->capture_default_str();
  command->add_flag("--force", options->force, "Replace --out if it exists");
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
