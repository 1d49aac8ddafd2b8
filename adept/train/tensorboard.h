// TensorBoard event files: https://www.tensorflow.org/tensorboard.
//
// A file is a sequence of TFRecords, each with a masked CRC-32C of its length and another of its bytes, an Event of
// TensorFlow's event.proto. Only the fields required for scalars are written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "adept/train/metric_sinks.h"

namespace adept::train {

/// Folder of event files in the directory of a run, as in the Hugging Face Trainer.
inline constexpr char kTensorBoardFolder[] = "runs";

/// One file for each session of a training. Tags are named as in the Hugging Face Trainer: eval_terms_loss is
/// eval/terms_loss, any other value train/NAME; the members of an object are NAME/MEMBER.
class TensorBoardSink final : public MetricSink {
 public:
  /// Starts a file for a session after `step` completed steps. It begins with the mark that makes TensorBoard drop
  /// later steps of earlier files. Removes files of sessions that began at this step or later. Throws DataError.
  TensorBoardSink(const std::filesystem::path& directory, std::int64_t step);

  /// Every event is in the file when this returns.
  void log(const Json& values, std::int64_t step) override;

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(const std::string& event);

  std::filesystem::path path_;
};

namespace detail {
/// CRC-32C (Castagnoli), reflected, as in RFC 3720; "123456789" gives 0xe3069283.
std::uint32_t crc32c(std::string_view bytes);
}  // namespace detail

}  // namespace adept::train
