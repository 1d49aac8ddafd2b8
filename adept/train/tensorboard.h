// Event files, which TensorBoard shows: https://www.tensorflow.org/tensorboard.
//
// A file is a row of TFRecords, each with a masked CRC-32C over its length and another over its bytes, which are an
// Event of TensorFlow's event.proto. Only the few fields that a scalar needs are written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "adept/train/metric_sinks.h"

namespace adept::train {

/// Of event files in the directory of a run, where Hugging Face's trainer puts them too.
inline constexpr char kTensorBoardFolder[] = "runs";

/// One file for each session of a training. Tags are named as Hugging Face's trainer names them: eval_terms_loss is
/// eval/terms_loss, any other value train/NAME; the members of an object are NAME/MEMBER.
class TensorBoardSink final : public MetricSink {
 public:
  /// Begins a file for a session that starts after `step` completed steps. It opens with the mark by which TensorBoard
  /// drops what earlier files say of later steps; files of sessions that began at this step or later hold nothing
  /// else, and are removed. Throws DataError.
  TensorBoardSink(const std::filesystem::path& directory, std::int64_t step);

  /// Every event is in the file when this returns.
  void log(const Json& values, std::int64_t step) override;

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(const std::string& event);

  std::filesystem::path path_;
};

namespace detail {
/// CRC-32C (Castagnoli), reflected, as RFC 3720 has it; "123456789" gives 0xe3069283.
std::uint32_t crc32c(std::string_view bytes);
}  // namespace detail

}  // namespace adept::train
