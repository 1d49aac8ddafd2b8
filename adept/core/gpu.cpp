#include "adept/core/gpu.h"

#include <fstream>
#include <set>
#include <system_error>

namespace adept {

std::string detail::gpu_model_name(const std::filesystem::path& root) {
  std::error_code error;
  std::set<std::filesystem::path> gpus;
  for (std::filesystem::directory_iterator it(root / "proc/driver/nvidia/gpus", error), end; !error && it != end;
       it.increment(error))
    gpus.insert(it->path());
  if (gpus.empty()) return "unknown GPU";
  std::ifstream information(*gpus.begin() / "information");
  std::string model;
  std::getline(information, model);  // "Model: \t\t NVIDIA H100 80GB HBM3"
  model.erase(0, model.find(':') + 1);
  model.erase(0, model.find_first_not_of(" \t"));
  return model.empty() ? "unknown GPU" : model;
}

std::string gpu_model_name() { return detail::gpu_model_name("/"); }

}  // namespace adept
