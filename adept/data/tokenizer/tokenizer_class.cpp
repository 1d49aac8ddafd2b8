#include "adept/data/tokenizer/tokenizer_class.h"

#include <fmt/format.h>

#include <optional>
#include <string>
#include <vector>

namespace adept::data::tok {
namespace {

// A component of tokenizer.json, or each one of a sequence.
std::vector<SortedJson> components(const JsonField& root, const char* key) {
  const std::optional<JsonField> field = root.find(key);
  if (!field) return {};
  const SortedJson& json = field->json();
  for (const char* list : {"pretokenizers", "normalizers"})
    if (json.is_object() && json.contains(list) && json[list].is_array()) return {json[list].begin(), json[list].end()};
  return {json};
}

const SortedJson* find_type(const std::vector<SortedJson>& list, const char* type) {
  for (const SortedJson& component : list)
    if (component.is_object() && component.value("type", "") == type) return &component;
  return nullptr;
}

}  // namespace

std::string class_mismatch(const JsonField& root, const TokenizerSettings& settings) {
  std::string name = settings.tokenizer_class;
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  const bool is_llama = name == "LlamaTokenizer", is_qwen = name == "Qwen2Tokenizer";
  if (!is_llama && !is_qwen && name != "GPT2Tokenizer") return "";
  const std::vector<SortedJson> pre_tokenizers = components(root, "pre_tokenizer");
  const std::vector<SortedJson> normalizers = components(root, "normalizer");
  const SortedJson* byte_level = find_type(pre_tokenizers, "ByteLevel");
  if (is_llama) return byte_level != nullptr ? "its pre-tokenizer is not a ByteLevel" : "";
  if (byte_level == nullptr) return "its pre-tokenizer is a ByteLevel";
  const SortedJson* other = nullptr;
  for (const SortedJson& normalizer : normalizers)
    if (!is_qwen || find_type({normalizer}, "NFC") == nullptr) other = &normalizer;
  if (other != nullptr) return is_qwen ? "its normalizer is NFC" : "it has no normalizer";
  const bool adds_space = settings.add_prefix_space.value_or(false);
  if (byte_level->value("add_prefix_space", false) != adds_space)
    return fmt::format("its add_prefix_space is {}", adds_space);
  return "";
}

}  // namespace adept::data::tok
