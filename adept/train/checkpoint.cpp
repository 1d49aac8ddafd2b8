#include "adept/train/checkpoint.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/io/atomic_file.h"
#include "adept/io/safetensors.h"
#include "adept/model/torch_tensors.h"

namespace adept::train {
namespace {

namespace fs = std::filesystem;

constexpr int kCheckpointVersion = 2;
constexpr std::string_view kPrefix = "checkpoint-";
constexpr char kStateFile[] = "trainer_state.json";
constexpr char kTrainableFile[] = "trainable.safetensors";
constexpr char kOptimizerFile[] = "optimizer.safetensors";

// Of the tensor files.
std::map<std::string, std::string> metadata() { return {{"format", "pt"}}; }

// Keeps CPU copies alive while their views are written.
struct HostTensors {
  std::vector<at::Tensor> tensors;
  std::vector<io::TensorView> views;
  void add(const std::string& name, const at::Tensor& tensor) {
    tensors.push_back(tensor.detach().cpu().contiguous());
    views.push_back(model::as_view(name, tensors.back()));
  }
};

HostTensors masters_of(const optim::AdamW& optimizer) {
  HostTensors host;
  for (const optim::Parameter& p : optimizer.parameters()) host.add(p.name, p.master);
  return host;
}

HostTensors moments_of(const optim::AdamW& optimizer) {
  HostTensors host;
  for (const auto& [name, moments] : optimizer.moments()) {
    host.add("exp_avg." + name, moments.exp_avg);
    host.add("exp_avg_sq." + name, moments.exp_avg_sq);
  }
  return host;
}

Json checksums(const HostTensors& host) {
  Json sums = Json::object();
  for (const io::TensorView& view : host.views) sums[view.name] = hash_of(view.data);
  return sums;
}

// The checksum of the state file covers everything else in it.
std::string state_checksum(Json state) {
  state.erase("checksum");
  return hash_of(state.dump());
}

std::optional<std::int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* begin = name.data() + kPrefix.size();
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(begin, end, step);
  if (error != std::errc() || stop != end || begin == end) return std::nullopt;
  return step;
}

// Checks a tensor file against its checksums and returns it, nothing in it left unchecked; throws DataError.
std::shared_ptr<const io::SafetensorsFile> open_verified(const fs::path& path, const Json& sums,
                                                         const HostTensors& expected) {
  auto file = io::SafetensorsFile::open(path);
  for (const io::TensorView& want : expected.views) {
    const io::TensorView* found = file->find(want.name);
    if (!found) throw DataError("{}: tensor {} is missing.", path.string(), want.name);
    if (found->dtype != want.dtype || found->shape != want.shape)
      throw DataError("{}: tensor {} is {}, expected {}.", path.string(), want.name, io::describe(*found),
                      io::describe(want));
    if (!sums.contains(want.name) || sums.at(want.name) != hash_of(found->data))
      throw DataError("{}: tensor {} does not match its checksum.", path.string(), want.name);
  }
  if (file->tensors().size() != expected.views.size() || file->metadata() != metadata())
    throw DataError("{}: holds something that was never saved in it.", path.string());
  return file;
}

void copy_into(const io::SafetensorsFile& file, const std::string& name, const at::Tensor& target) {
  target.copy_(model::as_tensor(*file.find(name), nullptr));
}

Json read_state(const fs::path& path) {
  const Json state = read_json(path);
  if (!state.is_object() || state.value("version", 0) != kCheckpointVersion)
    throw DataError("{}: not a checkpoint of version {}.", path.string(), kCheckpointVersion);
  if (state.value("checksum", "") != state_checksum(state))
    throw DataError("{}: does not match its checksum.", path.string());
  return state;
}

// "/train/learning_rate" -> "train.learning_rate", as in the configuration.
std::string config_key(std::string pointer) {
  std::replace(pointer.begin(), pointer.end(), '/', '.');
  return pointer.substr(1);
}

// Differences between the configuration that was saved and that of now, one line each.
std::vector<std::string> config_differences(const Json& saved, const Json& now) {
  std::vector<std::string> lines;
  const Json before = saved.flatten(), after = now.flatten();
  for (const auto& [key, value] : after.items())
    if (!before.contains(key) || before.at(key) != value)
      lines.push_back(fmt::format("{}: was {}, now {}", config_key(key),
                                  before.contains(key) ? before.at(key).dump() : "absent", value.dump()));
  return lines;
}

// Differences between the run that saved and the run that wants to go on, one line each.
std::vector<std::string> differences(const Json& saved, const RunIdentity& now) {
  std::vector<std::string> lines = config_differences(saved.at("config"), now.config);
  const Json before = saved.at("config").flatten(), after = now.config.flatten();
  for (const auto& [key, value] : before.items())
    if (!after.contains(key)) lines.push_back(fmt::format("{}: was {}, now absent", config_key(key), value.dump()));
  if (saved.at("model_hash") != now.model_hash)
    lines.push_back(fmt::format("model: weights were {}, now {}", saved.at("model_hash").dump(), now.model_hash));
  else if (saved.at("frozen_hash") != now.frozen_hash)
    lines.push_back(
        fmt::format("frozen weights in memory: were {}, now {}", saved.at("frozen_hash").dump(), now.frozen_hash));
  return lines;
}

ConfigError other_run_error(const fs::path& dir, const std::vector<std::string>& lines) {
  return ConfigError(
      "{}: belongs to another run:\n  {}\nResume with the same inputs, or start anew in another output_dir.",
      dir.string(), fmt::join(lines, "\n  "));
}

TrainerState state_from_json(const Json& json) {
  TrainerState state;
  json.at("step").get_to(state.step);
  json.at("total_tokens").get_to(state.total_tokens);
  json.at("nonfinite_in_row").get_to(state.nonfinite_in_row);
  json.at("nonfinite_total").get_to(state.nonfinite_total);
  json.at("train_seconds").get_to(state.train_seconds);
  json.at("necessary_flops").get_to(state.necessary_flops);
  json.at("loss_sum").get_to(state.loss_sum);
  json.at("loss_tokens").get_to(state.loss_tokens);
  json.at("last_loss").get_to(state.last_loss);
  json.at("run_loss_sum").get_to(state.run_loss_sum);
  json.at("run_loss_tokens").get_to(state.run_loss_tokens);
  state.loader = json.at("loader");
  state.unit_importance = json.at("unit_importance").get<method::UnitValues>();
  state.unit_lr_weights = json.at("unit_lr_weights").get<method::UnitValues>();
  return state;
}

// Verifies everything before the first byte of the optimizer changes.
TrainerState load(const fs::path& dir, const Json& json, optim::AdamW& optimizer) {
  const TrainerState state = state_from_json(json);
  const HostTensors masters = masters_of(optimizer), moments = moments_of(optimizer);
  const auto trainable = open_verified(dir / kTrainableFile, json.at("checksums"), masters);
  const auto saved_moments = open_verified(dir / kOptimizerFile, json.at("checksums"), moments);
  for (const optim::Parameter& p : optimizer.parameters()) {
    copy_into(*trainable, p.name, p.master);
    copy_into(*saved_moments, "exp_avg." + p.name, optimizer.moments().at(p.name).exp_avg);
    copy_into(*saved_moments, "exp_avg_sq." + p.name, optimizer.moments().at(p.name).exp_avg_sq);
  }
  optimizer.set_num_updates(json.at("num_updates").get<std::int64_t>());
  return state;
}

}  // namespace

fs::path save_checkpoint(const fs::path& run_dir, const TrainerState& state, const RunIdentity& identity,
                         const optim::AdamW& optimizer) {
  const HostTensors masters = masters_of(optimizer), moments = moments_of(optimizer);
  Json sums = checksums(masters);
  sums.update(checksums(moments));
  Json json = {{"version", kCheckpointVersion},
               {"step", state.step},
               {"num_updates", optimizer.num_updates()},
               {"total_tokens", state.total_tokens},
               {"nonfinite_in_row", state.nonfinite_in_row},
               {"nonfinite_total", state.nonfinite_total},
               {"train_seconds", state.train_seconds},
               {"necessary_flops", state.necessary_flops},
               {"loss_sum", state.loss_sum},
               {"loss_tokens", state.loss_tokens},
               {"last_loss", state.last_loss},
               {"run_loss_sum", state.run_loss_sum},
               {"run_loss_tokens", state.run_loss_tokens},
               {"loader", state.loader},
               {"unit_importance", state.unit_importance},
               {"unit_lr_weights", state.unit_lr_weights},
               {"model_hash", identity.model_hash},
               {"frozen_hash", identity.frozen_hash},
               {"config", identity.config},
               {"checksums", sums}};
  json["checksum"] = state_checksum(json);
  io::AtomicDirectory directory(run_dir / fmt::format("{}{}", kPrefix, state.step), io::OnExisting::kReplace);
  io::write_safetensors(directory.path() / kTrainableFile, masters.views, metadata());
  io::write_safetensors(directory.path() / kOptimizerFile, moments.views, metadata());
  io::write_file_atomically(directory.path() / kStateFile, json.dump(2) + "\n");
  directory.commit();
  return directory.final_path();
}

std::vector<fs::path> list_checkpoints(const fs::path& run_dir) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_dir, error))
    if (entry.is_directory(error) && step_of(entry.path())) found.push_back(entry.path());
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) { return *step_of(a) > *step_of(b); });
  return found;
}

void prune_checkpoints(const fs::path& run_dir, std::int64_t keep) {
  const std::vector<fs::path> found = list_checkpoints(run_dir);
  for (std::size_t i = static_cast<std::size_t>(std::max<std::int64_t>(keep, 2)); i < found.size(); ++i) {
    std::error_code error;
    fs::remove_all(found[i], error);
    if (error) spdlog::warn("{}: the old checkpoint cannot be removed: {}", found[i].string(), error.message());
  }
}

void check_same_config(const fs::path& run_dir, const Json& config) {
  for (const fs::path& dir : list_checkpoints(run_dir)) {
    std::vector<std::string> lines;
    try {
      lines = config_differences(read_state(dir / kStateFile).at("config"), config);
    } catch (const DataError&) {  // reported when it is loaded
      continue;
    } catch (const Json::exception&) {
      continue;
    }
    if (!lines.empty()) throw other_run_error(dir, lines);
    return;
  }
}

std::optional<TrainerState> load_newest_checkpoint(const fs::path& run_dir, const RunIdentity& identity,
                                                   optim::AdamW& optimizer) {
  const std::vector<fs::path> found = list_checkpoints(run_dir);
  for (const fs::path& dir : found) {
    Json json;
    TrainerState state;
    try {
      json = read_state(dir / kStateFile);
      const std::vector<std::string> other = differences(json, identity);
      if (!other.empty()) throw other_run_error(dir, other);
      state = load(dir, json, optimizer);
    } catch (const DataError& error) {
      spdlog::warn("{}: passed over, it is damaged: {}", dir.string(), error.what());
      continue;
    } catch (const Json::exception& error) {
      spdlog::warn("{}: passed over, its state is damaged: {}", dir.string(), error.what());
      continue;
    }
    if (dir != found.front()) spdlog::warn("resuming from {}, the newest checkpoint that is whole", dir.string());
    return state;
  }
  if (!found.empty())
    throw DataError("{}: all {} checkpoints are damaged (see the warnings above). Start anew in another output_dir.",
                    run_dir.string(), found.size());
  return std::nullopt;
}

}  // namespace adept::train
