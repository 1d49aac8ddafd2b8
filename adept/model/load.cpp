#include "adept/model/load.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <unordered_set>

#include "adept/core/error.h"
#include "adept/model/torch_tensors.h"
#include "adept/model/weight_names.h"

namespace adept::model {
namespace {

bool is_weight_type(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }

std::string describe_shape(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// Frequencies that old versions of transformers saved; they follow from config.json.
bool is_rope_buffer(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

/// What is wrong with the files.
struct WeightProblems {
  std::vector<std::string> missing;     ///< names
  std::vector<std::string> unexpected;  ///< names
  std::vector<std::string> lines;       ///< about tensors that are missing, or have another shape or type
};

WeightProblems find_problems(const ModelConfig& config, const io::WeightFiles& files) {
  Weights slots;
  WeightProblems problems;
  std::unordered_set<std::string> expected;
  for (const Parameter& parameter : named_parameters(config, slots)) {
    expected.insert(parameter.name);
    const io::TensorView* found = files.find(parameter.name);
    if (found == nullptr) {
      problems.missing.push_back(parameter.name);
      problems.lines.push_back(fmt::format("{} is missing; config.json requires it with shape {}", parameter.name,
                                           describe_shape(parameter.shape)));
    } else if (found->shape != parameter.shape) {
      problems.lines.push_back(fmt::format("{} has shape {}; config.json requires {}", parameter.name,
                                           describe_shape(found->shape), describe_shape(parameter.shape)));
    } else if (!is_weight_type(found->dtype)) {
      problems.lines.push_back(fmt::format("{} has element type {}; this build reads F32, BF16, F16", parameter.name,
                                           safetensors_name(found->dtype)));
    }
  }
  for (const std::string& name : files.names()) {
    if (expected.contains(name) || is_rope_buffer(name)) continue;
    if (config.tie_word_embeddings && name == kHeadName) continue;
    problems.unexpected.push_back(name);
  }
  return problems;
}

/// Both kinds are shown: of what is missing and of what was found.
[[noreturn]] void refuse(const io::WeightFiles& files, const WeightProblems& problems) {
  constexpr std::size_t kMostShown = 20;
  std::vector<std::string> unexpected;
  for (const std::string& name : problems.unexpected)
    unexpected.push_back(fmt::format("{} is not a tensor of this architecture", name));
  const std::size_t num_unexpected =
      std::min(unexpected.size(), kMostShown - std::min(kMostShown / 2, problems.lines.size()));
  const std::size_t num_lines = std::min(problems.lines.size(), kMostShown - num_unexpected);
  std::vector<std::string> shown;
  const auto show = [&](const std::vector<std::string>& lines, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      shown.push_back(fmt::format("{}: {}", files.directory().string(), lines[i]));
    if (lines.size() > count) shown.push_back(fmt::format("... and {} more", lines.size() - count));
  };
  show(problems.lines, num_lines);
  show(unexpected, num_unexpected);
  const std::string explanation = explain_names(problems.missing, problems.unexpected);
  throw DataError(fmt::format(
      "{}\n{}", fmt::join(shown, "\n"),
      !explanation.empty() ? explanation : "The weights do not match this config.json, or the files are incomplete."));
}

at::Tensor read_tensor(const io::WeightFiles& files, std::string_view name) {
  return as_tensor(files.at(name), files.owner(name));
}

/// By value, whatever the two types are, some rows at a time.
bool equal_values(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  if (a.scalar_type() == b.scalar_type()) return at::equal(a, b);
  constexpr std::int64_t kRows = 1024;
  for (std::int64_t row = 0; row < a.size(0); row += kRows) {
    const std::int64_t count = std::min(kRows, a.size(0) - row);
    if (!at::equal(a.narrow(0, row, count).to(at::kFloat), b.narrow(0, row, count).to(at::kFloat))) return false;
  }
  return true;
}

void check_tied_head(const io::WeightFiles& files) {
  if (files.find(kHeadName) == nullptr) return;
  if (!is_weight_type(files.at(kHeadName).dtype) ||
      !equal_values(read_tensor(files, kHeadName), read_tensor(files, kEmbeddingName)))
    throw DataError(
        "{}: {} differs from {}, but config.json ties them (tie_word_embeddings). Set it to false if the head is a "
        "separate tensor, or remove the head.",
        files.directory().string(), kHeadName, kEmbeddingName);
  files.release_pages(kHeadName);
}

}  // namespace

io::WeightFiles open_weights(const ModelConfig& config, const std::filesystem::path& model_dir) {
  io::WeightFiles files = io::WeightFiles::open(model_dir);
  if (config.tie_word_embeddings && files.find(kEmbeddingName) == nullptr && files.find(kHeadName) != nullptr)
    files.rename(kHeadName, std::string(kEmbeddingName));
  return files;
}

void check_weights(const ModelConfig& config, const io::WeightFiles& files) {
  const WeightProblems problems = find_problems(config, files);
  if (!problems.lines.empty() || !problems.unexpected.empty()) refuse(files, problems);
  if (config.tie_word_embeddings) check_tied_head(files);
}

Weights load_weights(const ModelConfig& config, const io::WeightFiles& files, const LoadOptions& options) {
  check_weights(config, files);
  Weights weights;
  const bool keeps_narrow = options.dtype == at::kFloat && options.device.is_cpu() && !options.widen_matrices;
  const std::vector<Parameter> table = named_parameters(config, weights);
  const at::NoGradGuard no_grad;
  for (auto first = table.begin(), end = first; first != table.end(); first = end) {
    end = std::find_if(first, table.end(), [&](const Parameter& p) { return p.layer != first->layer; });
    const std::span<const Parameter> parameters(first, end);
    for (const Parameter& p : parameters) {
      *p.tensor = read_tensor(files, p.name);
      if (keeps_narrow && p.is_matrix()) continue;
      const auto name = [&] { return fmt::format("{}: {}", files.directory().string(), p.name); };
      *p.tensor = to_type(p.tensor->to(options.device), options.dtype, name, "Compute in fp32: --dtype fp32.");
    }
    if (options.on_layer && first->layer >= 0) options.on_layer(first->layer, parameters);
    for (const Parameter& p : parameters)
      if (p.tensor->storage().data() != files.at(p.name).data.data()) files.release_pages(p.name);
  }
  if (config.tie_word_embeddings) weights.lm_head = weights.embed_tokens;
  return weights;
}

Decoder load_decoder(const std::filesystem::path& model_dir, const io::WeightFiles& files, const LoadOptions& options) {
  ModelConfig config = read_model_config(model_dir);
  Weights weights = load_weights(config, files, options);
  return {std::move(config), std::move(weights)};
}

Decoder load_decoder(const std::filesystem::path& model_dir, const LoadOptions& options) {
  return load_decoder(model_dir, open_weights(read_model_config(model_dir), model_dir), options);
}

}  // namespace adept::model
