#include "adept/io/safetensors_header.h"

#include <fmt/ranges.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/io/text_quote.h"

namespace adept::io {
namespace {

constexpr std::size_t kMaxDims = 64;
constexpr std::size_t kMaxMetadataEntries = 100'000;
constexpr std::size_t kMaxShownNumber = 40;

// A state machine over the events of the JSON parser: anything that the format does not allow is rejected where it
// starts.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderHandler(const std::string& where) : where_(where) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { return refuse("null"); }
  bool boolean(bool value) override { return refuse(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return refuse(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return refuse(text.substr(0, kMaxShownNumber)); }
  bool binary(binary_t&) override { return refuse("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::kShape) {
      if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max()))
        fail("shape has the dimension {}; expected less than 2^63", value);
      if (entry_.shape.size() == kMaxDims) fail("shape has more than {} dimensions", kMaxDims);
      entry_.shape.push_back(static_cast<std::int64_t>(value));
    } else if (state_ == State::kOffsets) {
      if (num_offsets_ == 2) fail("data_offsets has more than two numbers; expected [begin, end]");
      (num_offsets_++ == 0 ? entry_.begin : entry_.end) = value;
    } else {
      return refuse(std::to_string(value));
    }
    return true;
  }

  bool string(string_t& value) override {
    if (state_ == State::kDtypeValue) {
      const auto dtype = dtype_from_safetensors_name(value);
      if (!dtype) fail("dtype {} is unknown to this build; expected one of {}", quote(value), known_dtypes());
      entry_.dtype = *dtype;
      state_ = State::kTensor;
    } else if (state_ == State::kMetadataValue) {
      if (header_.metadata.size() == kMaxMetadataEntries)
        throw DataError("{}: __metadata__ has more than {} entries. The file is corrupt, or is not a model.", where_,
                        kMaxMetadataEntries);
      if (!header_.metadata.emplace(key_, value).second) fail_duplicate(key_, "__metadata__");
      state_ = State::kMetadata;
    } else {
      return refuse(quote(value));
    }
    return true;
  }

  bool key(string_t& value) override {
    if (state_ == State::kTop) return top_key(value);
    if (state_ == State::kTensor) return tensor_key(value);
    key_ = value;  // kMetadata; nothing else has keys
    state_ = State::kMetadataValue;
    return true;
  }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kMetadataObject:
        state_ = State::kMetadata;
        return true;
      case State::kTensorObject:
        state_ = State::kTensor;
        return true;
      default:
        return refuse("an object");
    }
  }

  bool end_object() override {
    if (state_ == State::kTensor) finish_entry();
    state_ = state_ == State::kTop ? State::kDone : State::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ == State::kShapeValue)
      state_ = State::kShape;
    else if (state_ == State::kOffsetsValue)
      state_ = State::kOffsets;
    else
      return refuse("an array");
    return true;
  }

  bool end_array() override {
    if (state_ == State::kOffsets && num_offsets_ != 2)
      fail("data_offsets has {} number{}; expected [begin, end]", num_offsets_, num_offsets_ == 1 ? "" : "s");
    state_ = State::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) override {
    throw DataError("{}: the header is not valid JSON at byte {}: {}. The file is corrupt; download or copy it again.",
                    where_, 8 + position, quote(json_problem(error)));
  }

 private:
  enum class State {
    kStart,
    kTop,
    kDone,
    kMetadataObject,
    kMetadata,
    kMetadataValue,
    kTensorObject,
    kTensor,
    kDtypeValue,
    kShapeValue,
    kShape,
    kOffsetsValue,
    kOffsets,
  };

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw DataError("{}: tensor {}: {}. The file is corrupt, or has another format.", where_, quote(entry_.name),
                    fmt::format(format, std::forward<Args>(args)...));
  }

  [[noreturn]] void fail_duplicate(const std::string& key, const std::string& place) const {
    throw DataError("{}: the key {} appears twice in {}. The file is corrupt; download or copy it again.", where_,
                    quote(key), place);
  }

  bool refuse(const std::string& found) const {
    switch (state_) {
      case State::kStart:
        throw DataError("{}: the header is {}; expected a JSON object.", where_, found);
      case State::kMetadataObject:
        throw DataError("{}: __metadata__ is {}; expected an object of strings.", where_, found);
      case State::kMetadataValue:
        throw DataError("{}: __metadata__ has {} for {}; expected a string.", where_, found, quote(key_));
      case State::kTensorObject:
        fail("is {}; expected an object of dtype, shape and data_offsets", found);
      case State::kDtypeValue:
        fail("dtype is {}; expected a string", found);
      case State::kShapeValue:
        fail("shape is {}; expected an array of integers", found);
      case State::kShape:
        fail("shape has {}; expected integers >= 0", found);
      case State::kOffsetsValue:
        fail("data_offsets is {}; expected [begin, end]", found);
      case State::kOffsets:
        fail("data_offsets has {}; expected integers >= 0", found);
      case State::kTop:
      case State::kDone:
      case State::kMetadata:
      case State::kTensor:
        break;
    }
    throw InternalError("a JSON value where the parser allows none");
  }

  bool top_key(const std::string& value) {
    if (!names_.insert(value).second) fail_duplicate(value, "the header");
    if (value == "__metadata__") {
      state_ = State::kMetadataObject;
      return true;
    }
    entry_ = HeaderEntry{};
    entry_.name = value;
    has_dtype_ = has_shape_ = has_offsets_ = false;
    num_offsets_ = 0;
    state_ = State::kTensorObject;
    return true;
  }

  bool tensor_key(const std::string& value) {
    bool* seen = nullptr;
    if (value == "dtype") {
      seen = &has_dtype_;
      state_ = State::kDtypeValue;
    } else if (value == "shape") {
      seen = &has_shape_;
      state_ = State::kShapeValue;
    } else if (value == "data_offsets") {
      seen = &has_offsets_;
      state_ = State::kOffsetsValue;
    } else {
      fail("has the unknown key {}; expected dtype, shape and data_offsets", quote(value));
    }
    if (*seen) fail_duplicate(value, fmt::format("tensor {}", quote(entry_.name)));
    *seen = true;
    return true;
  }

  void finish_entry() {
    if (!has_dtype_) fail("has no dtype");
    if (!has_shape_) fail("has no shape");
    if (!has_offsets_) fail("has no data_offsets");
    if (entry_.begin > entry_.end) fail("data_offsets [{}, {}] end before they begin", entry_.begin, entry_.end);
    const std::uint64_t size = checked_size();
    if (entry_.end - entry_.begin != size)
      fail("shape [{}] of {} needs {} bytes, but data_offsets [{}, {}] hold {}", fmt::join(entry_.shape, ", "),
           safetensors_name(entry_.dtype), size, entry_.begin, entry_.end, entry_.end - entry_.begin);
    header_.entries.push_back(std::move(entry_));
  }

  // The product of the other dimensions must not overflow even if one dimension is 0, because strides use it.
  std::uint64_t checked_size() const {
    std::int64_t size = static_cast<std::int64_t>(dtype_size(entry_.dtype));
    bool is_empty = false;
    for (const std::int64_t dim : entry_.shape) {
      is_empty |= dim == 0;
      if (dim != 0 && __builtin_mul_overflow(size, dim, &size))
        fail("shape [{}] of {} is larger than 2^63 bytes", fmt::join(entry_.shape, ", "),
             safetensors_name(entry_.dtype));
    }
    return is_empty ? 0 : static_cast<std::uint64_t>(size);
  }

  static std::string known_dtypes() {
    std::string names;
    for (int i = 0; i <= static_cast<int>(DType::kF8E5M2); ++i)
      names += fmt::format("{}{}", i == 0 ? "" : ", ", safetensors_name(static_cast<DType>(i)));
    return names;
  }

  const std::string& where_;
  SafetensorsHeader header_;
  std::unordered_set<std::string> names_;
  State state_ = State::kStart;
  HeaderEntry entry_;
  std::string key_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int num_offsets_ = 0;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& where) {
  // The parser treats a NUL as the end of its input, so anything could hide after it.
  if (const auto nul = json.find('\0'); nul != std::string_view::npos)
    throw DataError("{}: the header has a NUL at byte {}. The file is corrupt; download or copy it again.", where,
                    8 + nul);
  HeaderHandler handler(where);
  nlohmann::json::sax_parse(json.begin(), json.end(), &handler);
  return handler.take();
}

}  // namespace adept::io
