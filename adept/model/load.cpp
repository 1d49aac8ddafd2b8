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

namespace adept::model {
namespace {

constexpr std::string_view kHead = "lm_head.weight";
constexpr std::string_view kEmbeddings = "model.embed_tokens.weight";

bool is_weight_type(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }

std::string describe_shape(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// Frequencies that old versions of transformers saved; they follow from config.json.
bool is_rope_buffer(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

/// What is wrong with the files, without touching a weight.
std::vector<std::string> find_problems(const std::vector<NamedTensor>& table, const ModelConfig& config,
                                       const io::WeightFiles& files) {
  std::vector<std::string> problems;
  std::unordered_set<std::string> expected;
  for (const NamedTensor& parameter : table) {
    expected.insert(parameter.name);
    const io::TensorView* found = files.find(parameter.name);
    if (found == nullptr) {
      problems.push_back(fmt::format("{} is missing; config.json demands it with shape {}", parameter.name,
                                     describe_shape(parameter.shape)));
    } else if (found->shape != parameter.shape) {
      problems.push_back(fmt::format("{} has shape {}; config.json demands {}", parameter.name,
                                     describe_shape(found->shape), describe_shape(parameter.shape)));
    } else if (!is_weight_type(found->dtype)) {
      problems.push_back(fmt::format("{} has element type {}; this build reads F32, BF16, F16", parameter.name,
                                     safetensors_name(found->dtype)));
    }
  }
  for (const std::string& name : files.names()) {
    if (expected.contains(name) || is_rope_buffer(name)) continue;
    if (config.tie_word_embeddings && name == kHead) continue;
    problems.push_back(fmt::format("{} is not a tensor of this architecture", name));
  }
  return problems;
}

[[noreturn]] void refuse(const io::WeightFiles& files, const std::vector<std::string>& problems) {
  constexpr std::size_t kMostShown = 20;
  std::string text;
  for (std::size_t i = 0; i < std::min(problems.size(), kMostShown); ++i) {
    text += fmt::format("{}{}: {}", i == 0 ? "" : "\n", files.directory().string(), problems[i]);
  }
  if (problems.size() > kMostShown) text += fmt::format("\n... and {} more", problems.size() - kMostShown);
  throw DataError(text + "\nThe weights do not belong to this config.json, or the files are incomplete.");
}

at::Tensor read_tensor(const io::WeightFiles& files, std::string_view name) {
  return as_tensor(files.at(name), files.owner(name));
}

void check_tied_head(const io::WeightFiles& files) {
  if (files.find(kHead) == nullptr) return;
  const at::Tensor head = read_tensor(files, kHead), embeddings = read_tensor(files, kEmbeddings);
  if (head.sizes() == embeddings.sizes() && head.scalar_type() == embeddings.scalar_type() &&
      at::equal(head, embeddings)) {
    files.release_pages(kHead);
    return;
  }
  throw DataError(
      "{}: {} differs from {}, but config.json says that they are tied (tie_word_embeddings). Set it to "
      "false if the head is a tensor of its own, or remove the head.",
      files.directory().string(), kHead, kEmbeddings);
}

}  // namespace

Weights load_weights(const ModelConfig& config, const io::WeightFiles& files, const LoadOptions& options) {
  Weights weights;
  const bool keeps_narrow = options.dtype == at::kFloat && options.device.is_cpu() && !options.widen_matrices;
  const std::vector<NamedTensor> table = named_parameters(config, weights);
  if (const auto problems = find_problems(table, config, files); !problems.empty()) refuse(files, problems);
  if (config.tie_word_embeddings) check_tied_head(files);
  const at::NoGradGuard no_grad;
  for (const NamedTensor& parameter : table) {
    const at::Tensor stored = read_tensor(files, parameter.name);
    if (keeps_narrow && parameter.shape.size() == 2) {
      *parameter.tensor = stored;
      continue;
    }
    *parameter.tensor = stored.to(options.device, options.dtype);
    if (!parameter.tensor->is_same(stored)) files.release_pages(parameter.name);
  }
  if (config.tie_word_embeddings) weights.lm_head = weights.embed_tokens;
  return weights;
}

LoadedModel load_model(const std::filesystem::path& model_dir, const LoadOptions& options) {
  LoadedModel model;
  model.config = read_model_config(model_dir);
  model.weights = load_weights(model.config, io::WeightFiles::open(model_dir), options);
  return model;
}

}  // namespace adept::model
