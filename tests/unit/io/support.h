// What the tests of adept::io share.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/error.h"
#include "adept/io/safetensors.h"
#include "tests/support/files.h"
#include "tests/support/temporary_directory.h"

namespace adept::io::test {

using adept::test::TemporaryDirectory;

inline void write(const std::filesystem::path& path, std::string_view text) { adept::test::write_file(path, text); }
inline std::string read(const std::filesystem::path& path) { return adept::test::read_file(path); }

/// Names in a directory, hidden ones too.
inline std::set<std::string> names_in(const std::filesystem::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) names.insert(entry.path().filename());
  return names;
}

/// The message of the error of this type that `function` throws, or `none`.
template <typename Error, typename Function>
std::string message_of(Function&& function, const char* none) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return none;
}
template <typename Function>
std::string data_error(Function&& function) {
  return message_of<DataError>(function, "(no DataError)");
}
template <typename Function>
std::string config_error(Function&& function) {
  return message_of<ConfigError>(function, "(no ConfigError)");
}

/// A tensor over memory of its own.
struct OwnedTensor {
  std::vector<std::byte> bytes;
  TensorView view;
};

inline OwnedTensor make_tensor(std::string name, DType dtype, std::vector<std::int64_t> shape, unsigned seed) {
  OwnedTensor tensor;
  tensor.view = {std::move(name), dtype, std::move(shape), {}};
  tensor.bytes.resize(static_cast<std::size_t>(tensor.view.num_elements()) * dtype_size(dtype));
  for (std::size_t i = 0; i < tensor.bytes.size(); ++i)
    tensor.bytes[i] = static_cast<std::byte>((i * 37 + seed * 101 + (i >> 8)) % 253);
  tensor.view.data = tensor.bytes;
  return tensor;
}

inline bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

}  // namespace adept::io::test
