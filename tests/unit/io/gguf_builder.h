// Writes GGUF files in memory, right ones and wrong ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "adept/io/gguf.h"

namespace adept::io::test {

template <typename T>
std::string little_endian(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

inline std::string gguf_string(std::string_view text) {
  return little_endian<std::uint64_t>(text.size()) + std::string(text);
}

template <typename T>
constexpr GgufValueType value_type() {
  if constexpr (std::is_same_v<T, bool>) return GgufValueType::kBool;
  if constexpr (std::is_same_v<T, std::uint8_t>) return GgufValueType::kUint8;
  if constexpr (std::is_same_v<T, std::int8_t>) return GgufValueType::kInt8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return GgufValueType::kUint16;
  if constexpr (std::is_same_v<T, std::int16_t>) return GgufValueType::kInt16;
  if constexpr (std::is_same_v<T, std::uint32_t>) return GgufValueType::kUint32;
  if constexpr (std::is_same_v<T, std::int32_t>) return GgufValueType::kInt32;
  if constexpr (std::is_same_v<T, std::uint64_t>) return GgufValueType::kUint64;
  if constexpr (std::is_same_v<T, std::int64_t>) return GgufValueType::kInt64;
  if constexpr (std::is_same_v<T, float>) return GgufValueType::kFloat32;
  if constexpr (std::is_same_v<T, double>) return GgufValueType::kFloat64;
}

class GgufBuilder {
 public:
  struct Value {
    std::string key;
    std::uint32_t type;
    std::string bytes;
  };
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> sizes;  // innermost first
    std::uint32_t type;
    std::string data;
    std::uint64_t offset;
  };

  std::uint32_t version = 3;
  std::uint64_t alignment = 32;
  std::vector<Value> values;
  std::vector<Tensor> tensors;

  /// Replaces a value of the same key.
  GgufBuilder& set_raw(const std::string& key, std::uint32_t type, std::string bytes) {
    for (Value& value : values)
      if (value.key == key) {
        value = {key, type, std::move(bytes)};
        return *this;
      }
    values.push_back({key, type, std::move(bytes)});
    return *this;
  }
  template <typename T>
    requires std::is_arithmetic_v<T>
  GgufBuilder& set(const std::string& key, T value) {
    return set_raw(key, static_cast<std::uint32_t>(value_type<T>()), little_endian(value));
  }
  GgufBuilder& set(const std::string& key, const char* text) { return set_raw(key, 8, gguf_string(text)); }
  GgufBuilder& set(const std::string& key, const std::string& text) { return set_raw(key, 8, gguf_string(text)); }
  template <typename T>
  GgufBuilder& set(const std::string& key, const std::vector<T>& array) {
    std::string bytes = array_head(static_cast<std::uint32_t>(value_type<T>()), array.size());
    for (const T& value : array) bytes += little_endian(value);
    return set_raw(key, 9, bytes);
  }
  GgufBuilder& set(const std::string& key, const std::vector<std::string>& array) {
    std::string bytes = array_head(8, array.size());
    for (const std::string& text : array) bytes += gguf_string(text);
    return set_raw(key, 9, bytes);
  }
  GgufBuilder& remove(const std::string& key) {
    std::erase_if(values, [&](const Value& value) { return value.key == key; });
    return *this;
  }

  /// Adds a tensor after the ones before it. Its data is as given, whatever the shape says.
  GgufBuilder& add_tensor(const std::string& name, std::vector<std::uint64_t> sizes, std::uint32_t type,
                          std::string data) {
    const std::uint64_t offset = tensors.empty() ? 0 : aligned(tensors.back().offset + tensors.back().data.size());
    tensors.push_back({name, std::move(sizes), type, std::move(data), offset});
    return *this;
  }
  GgufBuilder& add_f32(const std::string& name, std::vector<std::uint64_t> sizes, const std::vector<float>& numbers) {
    std::string data(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float));
    return add_tensor(name, std::move(sizes), 0, std::move(data));
  }
  GgufBuilder& remove_tensor(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& tensor) { return tensor.name == name; });
    return lay_out();
  }
  /// Puts the tensors one after the other again.
  GgufBuilder& lay_out() {
    std::uint64_t end = 0;
    for (Tensor& tensor : tensors) {
      tensor.offset = aligned(end);
      end = tensor.offset + tensor.data.size();
    }
    return *this;
  }
  Tensor& tensor(const std::string& name) {
    for (Tensor& candidate : tensors)
      if (candidate.name == name) return candidate;
    throw std::out_of_range(name);
  }

  /// Magic, counts, metadata and the table of tensors.
  std::string header() const {
    std::string bytes = "GGUF" + little_endian(version) + little_endian<std::uint64_t>(tensors.size()) +
                        little_endian<std::uint64_t>(values.size());
    for (const Value& value : values) bytes += gguf_string(value.key) + little_endian(value.type) + value.bytes;
    for (const Tensor& tensor : tensors) {
      bytes += gguf_string(tensor.name) + little_endian(static_cast<std::uint32_t>(tensor.sizes.size()));
      for (const std::uint64_t size : tensor.sizes) bytes += little_endian(size);
      bytes += little_endian(tensor.type) + little_endian(tensor.offset);
    }
    return bytes;
  }
  std::string build() const {
    std::string bytes = header();
    const std::size_t start = aligned(bytes.size());
    bytes.resize(start, '\0');
    for (const Tensor& tensor : tensors) {
      if (bytes.size() < start + tensor.offset + tensor.data.size())
        bytes.resize(start + tensor.offset + tensor.data.size(), '\0');
      bytes.replace(start + tensor.offset, tensor.data.size(), tensor.data);
    }
    return bytes;
  }

 private:
  static std::string array_head(std::uint32_t type, std::size_t count) {
    return little_endian(type) + little_endian<std::uint64_t>(count);
  }
  std::uint64_t aligned(std::uint64_t size) const { return (size + alignment - 1) / alignment * alignment; }
};

/// A GgufFile over a copy of the bytes on the heap, exactly as long as they are, so that the address sanitizer sees a
/// read beyond the end.
class ParsedGguf {
 public:
  explicit ParsedGguf(std::string_view bytes) : bytes_(bytes.begin(), bytes.end()) {
    file_ = GgufFile::parse(std::as_bytes(std::span(bytes_)), "x.gguf");
  }
  const GgufFile* operator->() const { return file_.get(); }
  const GgufFile& operator*() const { return *file_; }

 private:
  std::vector<char> bytes_;
  std::shared_ptr<const GgufFile> file_;
};

}  // namespace adept::io::test
