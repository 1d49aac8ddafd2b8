#include "adept/train/checkpoint.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/io/atomic_file.h"
#include "adept/io/record.h"
#include "adept/io/safetensors.h"
#include "adept/model/torch_tensors.h"

namespace adept::train {
namespace {

namespace fs = std::filesystem;

constexpr int kCheckpointVersion = 6;
constexpr std::string_view kPrefix = "checkpoint-";
constexpr std::string_view kSetAside = "unverified-";  // in front of the name
constexpr char kStateFile[] = "trainer_state.json";
constexpr char kTrainableFile[] = "trainable.safetensors";
constexpr char kOptimizerFile[] = "optimizer.safetensors";
constexpr char kTrainableSums[] = "trainable_checksums", kOptimizerSums[] = "optimizer_checksums";

// Metadata of the tensor files.
std::map<std::string, std::string> metadata() { return {{"format", "pt"}}; }

// Whole tensors of the optimizer with these prefixes, without their bytes, in the order of names.
std::vector<io::TensorView> tensors_of(const optim::AdamW& optimizer, std::initializer_list<const char*> prefixes) {
  std::map<std::string, const optim::Parameter*> by_name;
  for (const optim::Parameter& p : optimizer.parameters()) by_name.emplace(p.name, &p);
  std::vector<io::TensorView> views;
  for (const auto& [name, p] : by_name)
    for (const char* prefix : prefixes)
      views.push_back({.name = prefix + name, .dtype = DType::kF32, .shape = p->shape().vec(), .data = {}});
  return views;
}

std::vector<io::TensorView> master_tensors(const optim::AdamW& optimizer) { return tensors_of(optimizer, {""}); }
std::vector<io::TensorView> moment_tensors(const optim::AdamW& optimizer) {
  return tensors_of(optimizer, {optim::kExpAvg, optim::kExpAvgSq});
}

// Returns the checksums.
Json write_tensors(const fs::path& path, const std::vector<io::TensorView>& tensors, optim::WholeTensors& state) {
  Json sums = Json::object();
  for (const io::TensorView& tensor : tensors) sums[tensor.name] = "";  // in this order, which is not that of the file
  io::SafetensorsWriter file(path, tensors, metadata());
  for (const io::TensorView& tensor : file.tensors()) {
    Hasher hasher;
    state.read(tensor.name, [&](const at::Tensor& piece) {
      const std::span<const std::byte> bytes = model::as_view(tensor.name, piece).data;
      hasher.update(bytes);
      file.write(bytes);
    });
    sums[tensor.name] = hasher.digest();
  }
  file.commit();
  return sums;
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

// Checks all contents of a tensor file against the checksums; throws DataError.
std::shared_ptr<const io::SafetensorsFile> open_verified(const fs::path& path, const Json& sums) {
  auto file = io::SafetensorsFile::open(path);
  for (const auto& [name, sum] : sums.items()) {
    const io::TensorView* found = file->find(name);
    if (!found) throw DataError("{}: tensor {} is missing.", path.string(), name);
    if (sum != hash_of(found->data)) throw DataError("{}: tensor {} does not match its checksum.", path.string(), name);
  }
  if (file->tensors().size() != sums.size() || file->metadata() != metadata())
    throw DataError("{}: contains unexpected tensors or metadata.", path.string());
  return file;
}

void check_shapes(const io::SafetensorsFile& file, const fs::path& path, const std::vector<io::TensorView>& expected) {
  for (const io::TensorView& want : expected) {
    const io::TensorView* found = file.find(want.name);
    if (!found) throw DataError("{}: tensor {} is missing.", path.string(), want.name);
    if (found->dtype != want.dtype || found->shape != want.shape)
      throw DataError("{}: tensor {} is {}; expected {}.", path.string(), want.name, io::describe(*found),
                      io::describe(want));
  }
  if (file.tensors().size() != expected.size())
    throw DataError("{}: has {} tensors; expected {}.", path.string(), file.tensors().size(), expected.size());
}

at::Tensor tensor_in(const io::SafetensorsFile& file, const std::string& name) {
  return model::as_tensor(*file.find(name), nullptr);
}

Json read_state(const fs::path& path) {
  const Json state = io::read_record(path);
  if (const Json version = state.value("version", Json()); version != kCheckpointVersion)
    throw ConfigError(
        "{}: has format version {}; this build reads version {}. Finish the run with the build that started it, or "
        "start again in another output_dir.",
        path.string(), version.dump(), kCheckpointVersion);
  return state;
}

// Differences between the saved run and the run that resumes, one line each.
std::vector<std::string> run_differences(const Json& saved, const RunIdentity& now, const fs::path& state) {
  const io::ModelIdentity saved_model = io::model_identity_from_json(saved.at("model"), state.string() + ": model.");
  std::vector<std::string> lines = training_differences(saved.at("config"), now.config, saved_model, now.model);
  if (lines.empty() && saved.at("frozen_hash") != now.frozen_hash)
    lines.push_back(fmt::format("frozen weights: were {}, now {}", saved.at("frozen_hash").dump(), now.frozen_hash));
  return lines;
}

// There may be too many units for keys of an object, so names and values are separate lists.
Json names_of(const method::UnitValues& values) {
  Json names = Json::array();
  for (const auto& [name, value] : values) names.push_back(name);
  return names;
}

// In the order of the names of `units`; null for a unit that has none.
Json values_of(const method::UnitValues& values, const method::UnitValues& units) {
  Json list = Json::array();
  if (values.empty()) return list;
  for (const auto& [name, ignored] : units) {
    const auto found = values.find(name);
    list.push_back(found == values.end() ? Json() : Json(found->second));
  }
  return list;
}

method::UnitValues unit_values(const Json& json, const char* key) {
  const Json &names = json.at("units"), &list = json.at(key);
  method::UnitValues values;
  if (list.empty()) return values;
  if (list.size() != names.size()) throw DataError("{}: has {} values of {} units.", key, list.size(), names.size());
  for (std::size_t i = 0; i < list.size(); ++i)
    if (!list[i].is_null()) values[names[i].get<std::string>()] = list[i].get<double>();
  return values;
}

TrainerState state_from_json(const Json& json) {
  TrainerState state;
  json.at("step").get_to(state.step);
  json.at("total_steps").get_to(state.total_steps);
  json.at("evaluation_due").get_to(state.evaluation_due);
  json.at("total_tokens").get_to(state.total_tokens);
  json.at("nonfinite_in_row").get_to(state.nonfinite_in_row);
  json.at("nonfinite_total").get_to(state.nonfinite_total);
  json.at("last_verified_step").get_to(state.last_verified_step);
  json.at("train_seconds").get_to(state.train_seconds);
  json.at("necessary_flops").get_to(state.necessary_flops);
  json.at("loss_sum").get_to(state.loss_sum);
  json.at("loss_tokens").get_to(state.loss_tokens);
  json.at("source_losses").get_to(state.source_losses);
  json.at("last_loss").get_to(state.last_loss);
  json.at("run_loss_sum").get_to(state.run_loss_sum);
  json.at("run_loss_tokens").get_to(state.run_loss_tokens);
  state.loader = json.at("loader");
  state.unit_importance = unit_values(json, "unit_importance");
  state.unit_lr_weights = unit_values(json, "unit_lr_weights");
  return state;
}

// Verifies everything before the first byte of the optimizer changes.
TrainerState load(const fs::path& dir, const Json& json, optim::AdamW& optimizer, const OnMaster& on_master) {
  const TrainerState state = state_from_json(json);
  const auto trainable = open_verified(dir / kTrainableFile, json.at(kTrainableSums));
  const auto saved_moments = open_verified(dir / kOptimizerFile, json.at(kOptimizerSums));
  check_shapes(*trainable, dir / kTrainableFile, master_tensors(optimizer));
  check_shapes(*saved_moments, dir / kOptimizerFile, moment_tensors(optimizer));
  for (const optim::Parameter& p : optimizer.parameters()) {
    const at::Tensor master = tensor_in(*trainable, p.name);
    optimizer.restore(p, master,
                      {.exp_avg = tensor_in(*saved_moments, optim::kExpAvg + p.name),
                       .exp_avg_sq = tensor_in(*saved_moments, optim::kExpAvgSq + p.name)});
    if (on_master) on_master(p.name, master);
  }
  optimizer.set_num_updates(json.at("num_updates").get<std::int64_t>());
  return state;
}

// Describes the damage of a checkpoint; empty if it is intact.
std::string damage_of(const fs::path& dir) {
  try {
    const Json json = read_state(dir / kStateFile);
    state_from_json(json);
    open_verified(dir / kTrainableFile, json.at(kTrainableSums));
    open_verified(dir / kOptimizerFile, json.at(kOptimizerSums));
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace

std::vector<std::string> training_differences(const Json& saved_config, const Json& config,
                                              const std::optional<io::ModelIdentity>& saved_model,
                                              const std::optional<io::ModelIdentity>& model) {
  const auto method_of = [](const Json& c) { return Json{{"method", c.value("method", Json())}}; };
  std::vector<std::string> lines = io::differences(method_of(saved_config), method_of(config));
  if (!lines.empty()) return lines;
  lines = io::differences(saved_config, config);
  if (!saved_model || !model) return lines;
  const std::vector<std::string> more =
      io::differences({{"model", io::to_json(*saved_model)}}, {{"model", io::to_json(*model)}});
  lines.insert(lines.end(), more.begin(), more.end());
  return lines;
}

ConfigError other_run_error(const fs::path& checkpoint, const std::vector<std::string>& differences) {
  return ConfigError(
      "{}: belongs to a different run:\n  {}\nResume with the same inputs, or start again in another output_dir.",
      checkpoint.string(), fmt::join(differences, "\n  "));
}

void require_no_checkpoints(const fs::path& run_dir) {
  if (const auto found = list_checkpoints(run_dir); !found.empty())
    throw ConfigError(
        "{}: contains {} of an earlier run. Continue that run with --resume, or choose another output_dir.",
        run_dir.string(), found.front().filename().string());
}

fs::path save_checkpoint(const fs::path& run_dir, const TrainerState& state, const RunIdentity& identity,
                         const optim::AdamW& optimizer, optim::WholeTensors& tensors) {
  io::AtomicDirectory directory(run_dir / fmt::format("{}{}", kPrefix, state.step), io::OnExisting::kReplace);
  const Json master_sums = write_tensors(directory.path() / kTrainableFile, master_tensors(optimizer), tensors);
  const Json moment_sums = write_tensors(directory.path() / kOptimizerFile, moment_tensors(optimizer), tensors);
  const Json json = {{"version", kCheckpointVersion},
                     {"step", state.step},
                     {"total_steps", state.total_steps},
                     {"evaluation_due", state.evaluation_due},
                     {"num_updates", optimizer.num_updates()},
                     {"total_tokens", state.total_tokens},
                     {"nonfinite_in_row", state.nonfinite_in_row},
                     {"nonfinite_total", state.nonfinite_total},
                     {"last_verified_step", state.last_verified_step},
                     {"train_seconds", state.train_seconds},
                     {"necessary_flops", state.necessary_flops},
                     {"loss_sum", state.loss_sum},
                     {"loss_tokens", state.loss_tokens},
                     {"source_losses", state.source_losses},
                     {"last_loss", state.last_loss},
                     {"run_loss_sum", state.run_loss_sum},
                     {"run_loss_tokens", state.run_loss_tokens},
                     {"loader", state.loader},
                     {"units", names_of(state.unit_lr_weights)},
                     {"unit_importance", values_of(state.unit_importance, state.unit_lr_weights)},
                     {"unit_lr_weights", values_of(state.unit_lr_weights, state.unit_lr_weights)},
                     {"model", io::to_json(identity.model)},
                     {"frozen_hash", identity.frozen_hash},
                     {"config", identity.config},
                     {kTrainableSums, master_sums},
                     {kOptimizerSums, moment_sums}};
  io::write_record(directory.path() / kStateFile, json);
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

std::string last_state(const fs::path& run_dir, std::int64_t step) {
  for (const fs::path& checkpoint : list_checkpoints(run_dir))
    if (*step_of(checkpoint) <= step) return checkpoint.string();
  return "the model that training started from";
}

void prune_checkpoints(const fs::path& run_dir, std::int64_t keep, std::set<fs::path>& known_whole,
                       std::int64_t verified) {
  const std::int64_t wanted = std::max<std::int64_t>(keep, 2);
  std::int64_t whole = 0;
  bool has_verified = verified == 0;
  for (const fs::path& checkpoint : list_checkpoints(run_dir)) {
    const bool is_verified = *step_of(checkpoint) <= verified;
    if (whole >= wanted && (has_verified || !is_verified)) {
      std::error_code error;
      fs::remove_all(checkpoint, error);
      if (error) log_warning("{}: the old checkpoint cannot be removed: {}", checkpoint.string(), error.message());
      continue;
    }
    if (!known_whole.contains(checkpoint) && damage_of(checkpoint).empty()) known_whole.insert(checkpoint);
    if (!known_whole.contains(checkpoint)) continue;
    ++whole;
    has_verified = has_verified || is_verified;
  }
}

void set_aside_checkpoints(const fs::path& run_dir, std::int64_t step) {
  for (const fs::path& checkpoint : list_checkpoints(run_dir)) {
    if (*step_of(checkpoint) <= step) return;
    const fs::path aside = run_dir / (std::string(kSetAside) + checkpoint.filename().string());
    std::error_code error;
    fs::remove_all(aside, error);  // of an earlier fault
    fs::rename(checkpoint, aside, error);
    if (error)
      log_warning("{}: cannot be renamed to {}: {}. It may contain a fault: remove it before you repeat the command",
                  checkpoint.string(), aside.string(), error.message());
    else
      log_warning("{} is now {}, as it may contain a fault", checkpoint.string(), aside.filename().string());
  }
}

std::optional<CheckpointHeader> newest_checkpoint(const fs::path& run_dir) {
  for (const fs::path& dir : list_checkpoints(run_dir)) {
    try {
      const Json state = read_state(dir / kStateFile);
      return CheckpointHeader{
          .path = dir,
          .step = state.at("step").get<std::int64_t>(),
          .model = io::model_identity_from_json(state.at("model"), (dir / kStateFile).string() + ": model."),
          .config = state.at("config"),
          .loader = state.at("loader")};
    } catch (const DataError&) {  // reported when it is loaded
    } catch (const Json::exception&) {
    }
  }
  return std::nullopt;
}

std::optional<TrainerState> load_newest_checkpoint(const fs::path& run_dir, const RunIdentity& identity,
                                                   optim::AdamW& optimizer, const OnMaster& on_master) {
  const std::vector<fs::path> found = list_checkpoints(run_dir);
  std::string damage;  // of the newest
  const auto skip = [&](const fs::path& dir, const char* what, const std::string& problem) {
    log_common_warning("{}: skipped, because {} damaged: {}", dir.string(), what, problem);
    if (damage.empty()) damage = fmt::format("{}{}", problem, problem.ends_with('.') ? "" : ".");
  };
  for (const fs::path& dir : found) {
    Json json;
    TrainerState state;
    try {
      json = read_state(dir / kStateFile);
      const std::vector<std::string> other = run_differences(json, identity, dir / kStateFile);
      if (!other.empty()) throw other_run_error(dir, other);
      state = load(dir, json, optimizer, on_master);
    } catch (const DataError& error) {
      skip(dir, "it is", error.what());
      continue;
    } catch (const Json::exception& error) {
      skip(dir, "its state is", error.what());
      continue;
    }
    state.skipped = damage;
    if (dir != found.front()) log_common_warning("resuming from {}, the newest intact checkpoint", dir.string());
    return state;
  }
  if (!found.empty())
    throw DataError("{}: none of the {} checkpoints is intact; the newest: {} Start again in another output_dir.",
                    run_dir.string(), found.size(), damage);
  return std::nullopt;
}

}  // namespace adept::train
