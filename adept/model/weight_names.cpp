#include "adept/model/weight_names.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

namespace adept::model {
namespace {

constexpr std::size_t kMostLookedAt = 500;
constexpr std::size_t kMostAdded = 4;  // parts of a name

using NameParts = std::vector<std::string_view>;

NameParts split_name(std::string_view name) {
  NameParts parts;
  for (;;) {
    const auto dot = name.find('.');
    parts.push_back(name.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    name.remove_prefix(dot + 1);
  }
}

// What a name has beyond another one.
struct Added {
  std::string prefix;  // "base_model.model."
  std::string inside;  // ".base_layer"
};

// Nothing unless every part of `inner` is in `outer`, in the same order. Matched from the end, so that of equal parts
// the first ones count as added.
std::optional<Added> what_is_added(const NameParts& outer, const NameParts& inner) {
  if (outer.size() <= inner.size() || outer.size() - inner.size() > kMostAdded || outer.back() != inner.back())
    return std::nullopt;
  Added added;
  std::size_t left = inner.size();
  for (std::size_t i = outer.size(); i-- > 0;) {
    if (left > 0 && outer[i] == inner[left - 1])
      --left;
    else if (left > 0)
      added.inside = fmt::format(".{}{}", outer[i], added.inside);
    else
      added.prefix = fmt::format("{}.{}", outer[i], added.prefix);
  }
  if (left > 0) return std::nullopt;
  return added;
}

struct Finding {
  std::size_t count = 0;
  std::string found, expected;  // the first example
};

// By what they are ("has the prefix ..."), all ways in which the names differ.
std::map<std::string, Finding> compare(const std::vector<std::string>& missing,
                                       const std::vector<std::string>& unexpected, std::size_t& num_compared) {
  std::vector<NameParts> wanted;
  for (const std::string& name : missing) {
    if (wanted.size() == kMostLookedAt) break;
    wanted.push_back(split_name(name));
  }
  std::map<std::string, Finding> findings;
  const auto note = [&](const std::string& what, const std::string& found, const std::string& expected) {
    Finding& finding = findings[what];
    if (finding.count++ == 0) finding = {1, found, expected};
  };
  num_compared = 0;
  for (const std::string& name : unexpected) {
    if (num_compared == kMostLookedAt) break;
    if (name.find(".lora_") != std::string::npos) continue;  // of an adapter, whose base layer says the same
    ++num_compared;
    const NameParts parts = split_name(name);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      if (const auto more = what_is_added(parts, wanted[i])) {
        if (!more->prefix.empty()) note(fmt::format("have the prefix \"{}\"", more->prefix), name, missing[i]);
        if (!more->inside.empty()) note(fmt::format("contain \"{}\"", more->inside), name, missing[i]);
        break;
      }
      if (const auto less = what_is_added(wanted[i], parts); less && less->inside.empty()) {
        note(fmt::format("lack the prefix \"{}\"", less->prefix), name, missing[i]);
        break;
      }
    }
  }
  return findings;
}

std::string_view advice_for(std::string_view what) {
  constexpr std::pair<std::string_view, std::string_view> kAdvice[] = {
      {"_orig_mod", "torch.compile does this; save the original model, model._orig_mod"},
      {"base_model.model", "PEFT does this; merge the adapter with merge_and_unload() and save the result"},
      {"base_layer", "PEFT does this; merge the adapter with merge_and_unload() and save the result"},
      {"\"module.", "DistributedDataParallel does this; save the wrapped model, model.module"},
      {"language_model", "a multimodal model does this; save only its language model"},
  };
  if (what.starts_with("lack")) return "a model without a head does this; save it as AutoModelForCausalLM";
  for (const auto& [part, advice] : kAdvice)
    if (what.find(part) != std::string_view::npos) return advice;
  return "rename them, or save the model without its wrapper";
}

}  // namespace

std::string explain_names(const std::vector<std::string>& missing, const std::vector<std::string>& unexpected) {
  std::size_t num_compared = 0;
  const std::map<std::string, Finding> findings = compare(missing, unexpected, num_compared);
  std::vector<std::string> what;
  const Finding* example = nullptr;
  for (const auto& [kind, finding] : findings) {
    if (2 * finding.count < num_compared) continue;
    what.push_back(kind);
    if (example == nullptr || finding.count > example->count) example = &finding;
  }
  if (what.empty()) return {};
  std::string text =
      fmt::format("The names {}, such as {} for {}", fmt::join(what, " and "), example->found, example->expected);
  return fmt::format("{}; {}.", text, advice_for(what.front()));
}

}  // namespace adept::model
