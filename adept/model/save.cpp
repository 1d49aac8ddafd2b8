#include "adept/model/save.h"

#include "adept/io/atomic_file.h"
#include "adept/io/companion_files.h"

namespace adept::model {

void write_config_json(const std::filesystem::path& model_dir, const Json& config) {
  const std::string text = config.dump(2) + "\n";
  io::write_file_atomically(model_dir / "config.json", text);
}

void write_model_files(const std::filesystem::path& model_dir, std::span<const io::TensorView> tensors,
                       const Json& config, const std::filesystem::path& source_dir, const io::TensorReader& read) {
  io::write_weight_files(model_dir, tensors, io::kMaxShardBytes, read);
  write_config_json(model_dir, config);
  io::copy_companion_files(source_dir, model_dir);
}

}  // namespace adept::model
