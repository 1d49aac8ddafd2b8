// Reads the metadata of one architecture in a GGUF file: every key must be understood, or is rejected by name.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adept/io/gguf.h"

namespace adept::model {

/// Reads the keys below "<general.architecture>." and collects what is wrong with them. Asking for a key marks it as
/// understood.
class GgufReader {
 public:
  /// Problems go to `problems`.
  GgufReader(const io::GgufFile& file, std::string_view architecture, std::vector<std::string>& problems);

  /// "llama.block_count".
  std::string full(std::string_view key) const { return prefix_ + std::string(key); }
  bool has(std::string_view key);

  /// One integer for all layers; an array must repeat it. Missing without a fallback is a problem. `low` on a problem.
  std::int64_t integer(std::string_view key, std::optional<std::int64_t> fallback, std::int64_t low);
  /// 1 on a problem.
  double positive_number(std::string_view key, std::optional<double> fallback);
  /// The same, where 0 means that it is not set, as llama.cpp takes it.
  double scale(std::string_view key, double fallback);
  std::optional<std::string_view> text(std::string_view key);
  /// A key that changes the computation unless its value is in `neutral`, or it was read before.
  void require(std::string_view key, const std::vector<double>& neutral);

  /// Marks a key as understood, whatever it says.
  void ignore(std::string_view key) { understood_.insert(std::string(key)); }
  /// The same if its value is this text.
  void understand(std::string_view key, std::string_view value);
  /// Rejects unread keys by name.
  void refuse_unknown();

  /// Whether the first layer has a bias. That all layers have the same ones is checked with the tensors themselves.
  bool has_attention_bias() const;
  bool has_mlp_bias() const;

  template <typename... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  const io::GgufFile& file() const { return file_; }
  std::vector<std::string>& problems() { return problems_; }

 private:
  bool first_layer_has(std::initializer_list<std::string_view> tensors) const;

  const io::GgufFile& file_;
  std::string prefix_;
  std::vector<std::string>& problems_;
  std::set<std::string, std::less<>> understood_;
};

}  // namespace adept::model
