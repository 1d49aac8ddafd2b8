#include "adept/train/tensorboard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <optional>
#include <span>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/host_name.h"
#include "adept/io/posix.h"

namespace adept::train {
namespace {

namespace fs = std::filesystem;

// TensorBoard reads a folder's files in the order of their names.
constexpr std::string_view kEventsPrefix = "events.out.tfevents.", kFromStep = ".from-";

// Already shown by the step axis.
constexpr std::string_view kOfTheAxis[] = {"total_steps", "percentage"};

// A minimal protocol buffer encoder: https://protobuf.dev/programming-guides/encoding.
enum class Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

template <typename Unsigned>
void put_fixed(std::string& out, Unsigned value) {
  for (std::size_t i = 0; i < sizeof(value); ++i) out += static_cast<char>(value >> (8 * i));
}

void put_key(std::string& out, int field, Wire wire) {
  put_varint(out, static_cast<std::uint64_t>(field) << 3 | static_cast<std::uint64_t>(wire));
}

void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, Wire::kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

// message Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5;
//                 SessionLog session_log = 7; }
enum EventField { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string event(std::int64_t step, EventField field, std::string_view content) {
  std::string out;
  put_key(out, kWallTime, Wire::kFixed64);
  put_fixed(out, std::bit_cast<std::uint64_t>(wall_time()));
  put_key(out, kStep, Wire::kVarint);
  put_varint(out, static_cast<std::uint64_t>(step));
  put_bytes(out, field, content);
  return out;
}

// message SessionLog { SessionStatus status = 1; }, where START is 1.
std::string session_start() {
  std::string out;
  put_key(out, 1, Wire::kVarint);
  put_varint(out, 1);
  return out;
}

// message Summary { repeated Value value = 1; }, message Value { string tag = 1; float simple_value = 2; }
void put_scalar(std::string& summary, std::string_view tag, double number) {
  std::string value;
  put_bytes(value, 1, tag);
  put_key(value, 2, Wire::kFixed32);
  put_fixed(value, std::bit_cast<std::uint32_t>(static_cast<float>(number)));
  put_bytes(summary, 1, value);
}

void put_scalars(std::string& summary, const std::string& tag, const Json& value) {
  if (value.is_number()) put_scalar(summary, tag, value.get<double>());
  if (!value.is_object()) return;
  for (const auto& [name, member] : value.items()) put_scalars(summary, tag + "/" + name, member);
}

// A checksum of bytes that contain checksums is weak, so TensorFlow masks it.
std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t crc = detail::crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

std::string record(std::string_view bytes) {
  std::string out;
  put_fixed(out, static_cast<std::uint64_t>(bytes.size()));
  put_fixed(out, masked_crc(out));
  out += bytes;
  put_fixed(out, masked_crc(bytes));
  return out;
}

template <typename Integer>
std::optional<Integer> parse_integer(std::string_view digits) {
  Integer value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

// Removes files of sessions that began at `step` or later. Returns the first second that no other file name uses.
std::int64_t take_back(const fs::path& directory, std::int64_t step) {
  auto second = static_cast<std::int64_t>(wall_time());
  std::vector<fs::path> superseded;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const auto suffix = name.rfind(kFromStep);
    if (!name.starts_with(kEventsPrefix) || suffix == std::string::npos) continue;
    const auto began = parse_integer<std::int64_t>(std::string_view(name).substr(suffix + kFromStep.size()));
    if (began && *began >= step)
      superseded.push_back(entry.path());
    else if (const auto named = parse_integer<std::int64_t>(std::string_view(name).substr(kEventsPrefix.size())))
      second = std::max(second, *named + 1);
  }
  for (const fs::path& path : superseded) remove_or_warn(path);
  return second;
}

}  // namespace

std::uint32_t detail::crc32c(std::string_view bytes) {
  static constexpr auto kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < table.size(); ++i) {
      table[i] = i;
      for (int bit = 0; bit < 8; ++bit) table[i] = table[i] >> 1 ^ (table[i] & 1U ? 0x82f63b78U : 0);
    }
    return table;
  }();
  std::uint32_t crc = ~0U;
  for (const char byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xffU];
  return ~crc;
}

TensorBoardSink::TensorBoardSink(const fs::path& directory, std::int64_t step) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw system_error(directory, "create the folder", error.value());
  path_ = directory / fmt::format("{}{:010}.{}.{}{}{}", kEventsPrefix, take_back(directory, step), host_name(),
                                  ::getpid(), kFromStep, step);
  append(event(0, kFileVersion, "brain.Event:2"));
  if (step > 0) append(event(step + 1, kSessionLog, session_start()));
}

void TensorBoardSink::log(const Json& values, std::int64_t step) {
  bool is_evaluation = false;
  for (const auto& [name, value] : values.items()) is_evaluation |= name.starts_with(kEvaluationPrefix);
  std::string summary;
  for (const auto& [name, value] : values.items()) {
    if (std::find(std::begin(kOfTheAxis), std::end(kOfTheAxis), name) != std::end(kOfTheAxis)) continue;
    if (name.starts_with(kEvaluationPrefix))
      put_scalars(summary, "eval/" + name.substr(kEvaluationPrefix.size()), value);
    else if (!is_evaluation)  // otherwise the line of the step contains them
      put_scalars(summary, "train/" + name, value);
  }
  append(event(step, kSummary, summary));
}

void TensorBoardSink::append(const std::string& event) {
  const UniqueFd fd(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666));
  if (!fd.is_open()) throw system_error(path_, "open for writing", errno);
  const std::string bytes = record(event);
  io::write_all(fd.get(), std::as_bytes(std::span(bytes)), path_);
}

}  // namespace adept::train
