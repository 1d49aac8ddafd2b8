#include "adept/train/export_trained.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstddef>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/io/atomic_file.h"
#include "adept/io/record.h"
#include "adept/model/save.h"
#include "adept/model/torch_tensors.h"
#include "adept/model/weight_names.h"
#include "adept/model/weights.h"
#include "adept/nn/linear.h"
#include "adept/nn/trained_rows.h"
#include "adept/train/methods.h"

namespace adept::train {
namespace {

// Share of the trained change, as root mean squares.
constexpr double kMuchRounding = 0.1;

// Trained values of the tensors, by their names in the files.
class TrainedValues {
 public:
  explicit TrainedValues(const TrainedModel& model) : model_(model) {}

  bool contains(const std::string& name) const { return has_master(name) || has_adapter(name) || has_new_rows(name); }

  // In fp32.
  at::Tensor value(const std::string& name) const {
    if (has_master(name)) return master(name);
    const at::Tensor stored = model::as_tensor(model_.files.at(name), model_.files.owner(name));
    const at::Tensor weight = stored.to(model_.decoder.device());
    if (has_new_rows(name))
      return nn::merged_rows(weight, at::kFloat,
                             {model_.decoder.weights().embed_tokens.trained.ids, master(rows_of(name))});
    const double scale = model_.config.lora.alpha.value() / static_cast<double>(model_.config.lora.rank);
    return nn::merged_weight(
        weight, {.a = master(adapter(name, "lora_A")), .b = master(adapter(name, "lora_B")), .scale = scale});
  }

 private:
  // A file may also contain a tied head.
  std::string trained_name(const std::string& name) const {
    const bool is_head = model_.decoder.config().tie_word_embeddings && name.starts_with(model::kHeadName);
    return is_head ? std::string(model::kEmbeddingName) + name.substr(model::kHeadName.size()) : name;
  }
  bool has_master(const std::string& name) const { return model_.tensors.contains(trained_name(name)); }
  // On the decoder's device: those that several ranks divide are on the host.
  at::Tensor master(const std::string& name) const {
    return model_.tensors.whole(trained_name(name)).to(model_.decoder.device());
  }
  static std::string rows_of(const std::string& name) { return name + std::string(kNewTokenRows); }
  bool has_new_rows(const std::string& name) const { return has_master(rows_of(name)); }
  static std::string adapter(const std::string& name, const char* part) {
    return fmt::format("{}.{}.weight", name.substr(0, name.rfind('.')), part);
  }
  bool has_adapter(const std::string& name) const {
    return name.ends_with(".weight") && has_master(adapter(name, "lora_A"));
  }

  const TrainedModel& model_;
};

// Measures how rounding to the export dtypes changes values, and how much of the trained change it loses.
class Rounding {
 public:
  // `before` is null for a tensor that was not trained.
  void add(const std::string& name, const at::Tensor* before, const at::Tensor& value, const at::Tensor& exported) {
    if (exported.scalar_type() != at::kFloat) types_.insert(exported.scalar_type() == at::kHalf ? "fp16" : "bf16");
    const at::Tensor difference = value - exported.to(at::kFloat);
    if (before != nullptr) {
      learnt_ += squares(value - before->to(at::kFloat));
      rounded_ += squares(difference);
    }
    values_ += value.numel();
    const at::Tensor changed = difference.ne(0);
    changed_ += changed.sum().item<std::int64_t>();
    const at::Tensor relative = at::where(changed, (difference / value).abs(), at::zeros({}, value.options()));
    if (const double largest = relative.numel() > 0 ? relative.max().item<double>() : 0; largest > largest_) {
      largest_ = largest;
      where_ = name;
    }
  }
  double share() const { return learnt_ > 0 ? std::sqrt(rounded_ / learnt_) : 0; }
  // Empty if nothing was rounded.
  std::string describe() const {
    if (changed_ == 0) return {};
    return fmt::format("export rounds to {}: {:.1f} % of {} values change, by at most {:.2g} % ({})",
                       fmt::join(types_, " and "), 100.0 * static_cast<double>(changed_) / static_cast<double>(values_),
                       format_count(values_), 100 * largest_, where_);
  }

 private:
  static double squares(const at::Tensor& difference) { return difference.square().sum(at::kDouble).item<double>(); }

  double learnt_ = 0, rounded_ = 0, largest_ = 0;
  std::int64_t values_ = 0, changed_ = 0;
  std::string where_;
  std::set<std::string_view> types_;
};

// The tensors of the files, with their export dtypes.
std::vector<io::TensorView> exported_views(const TrainedModel& model) {
  const config::DTypeChoice wanted = model.config.export_dtype;
  std::vector<io::TensorView> views;
  for (const std::string& name : model.files.names()) {
    views.push_back(model.files.at(name));
    if (wanted != config::DTypeChoice::kAuto)
      views.back().dtype = wanted == config::DTypeChoice::kFp32 ? DType::kF32 : DType::kBF16;
  }
  return views;
}

// Dtypes of the parameters; files may contain more tensors, such as rotary frequencies.
std::set<DType> parameter_types(const TrainedModel& model, const std::vector<io::TensorView>& views) {
  model::Weights slots;
  std::set<std::string> names;
  for (const model::Parameter& p : model::named_parameters(model.decoder.config(), slots)) names.insert(p.name);
  std::set<DType> types;
  for (const io::TensorView& view : views)
    if (names.contains(view.name)) types.insert(view.dtype);
  return types;
}

// config.json with the dtype that represents every parameter exactly: transformers loads the model in this dtype and
// would silently round to a narrower one.
Json exported_config(const TrainedModel& model, const std::vector<io::TensorView>& views) {
  const std::set<DType> types = parameter_types(model, views);
  const DType type = types.size() == 1 ? *types.begin() : DType::kF32;
  const std::string name = type == DType::kF16 ? "float16" : type == DType::kBF16 ? "bfloat16" : "float32";
  Json json = model.decoder.config().source;
  const bool is_named = json.contains("torch_dtype") || json.contains("dtype");
  for (const char* key : {"torch_dtype", "dtype"})
    if (json.contains(key)) json[key] = name;
  // Without this key, transformers uses the dtype of one tensor, which is right only if all are equal.
  const bool is_chosen = model.config.export_dtype != config::DTypeChoice::kAuto;
  if (!is_named && (types.size() > 1 || is_chosen)) json["torch_dtype"] = name;
  return json;
}

}  // namespace

void export_trained(const TrainedModel& model, const std::filesystem::path& out_dir) {
  const TrainedValues trained(model);
  const std::vector<io::TensorView> views = exported_views(model);
  Rounding rounding;
  // One at a time: otherwise they could take as much memory as the model.
  at::Tensor exported;
  std::string copied;
  const auto read = [&](const io::TensorView& view) -> std::span<const std::byte> {
    if (!copied.empty()) model.files.release_pages(std::exchange(copied, {}));
    const bool is_trained = trained.contains(view.name);
    const io::TensorView& stored = model.files.at(view.name);
    if (!is_trained && stored.dtype == view.dtype) {
      copied = view.name;
      return stored.data;
    }
    const at::Tensor before = model::as_tensor(stored, model.files.owner(view.name));
    const at::Tensor value = is_trained ? trained.value(view.name).cpu() : before.to(at::kFloat);
    const auto name = [&] { return fmt::format("{}: {}", out_dir.string(), view.name); };
    exported = model::to_type(value, model::to_scalar_type(view.dtype), name,
                              fmt::format("Set export_dtype: fp32{} and repeat the command (adept train: with "
                                          "--resume); the training is not repeated.",
                                          view.dtype == DType::kF16 ? " or bf16" : ""))
                   .contiguous();
    rounding.add(view.name, is_trained ? &before : nullptr, value, exported);
    model.files.release_pages(view.name);
    return model::as_view(view.name, exported).data;
  };
  io::AtomicDirectory directory(out_dir, io::OnExisting::kReplace);
  model::write_model_files(directory.path(), views, exported_config(model, views), model.model_dir, read);
  if (const std::string line = rounding.describe(); !line.empty()) log_info("{}", line);
  if (rounding.share() > kMuchRounding)
    log_warning(
        "rounding the trained tensors to the export dtype loses {:.0f} % of the trained change; export_dtype: fp32 "
        "keeps it",
        100 * rounding.share());
  const Json record = {{"method", std::string(config::to_string(model.config.method))},
                       {"trained_from", io::to_json(model.trained_from)},
                       {"steps", model.steps},
                       {"trained_parameters", model.trainable.num_parameters()},
                       {"rounding", rounding.share()},
                       {kDataPosition, model.data}};
  io::write_record(directory.path() / method::kTrainingRecord, record);
  if (model.expansion) io::write_record(directory.path() / method::kExpansionManifest, to_json(*model.expansion));
  directory.commit();
}

}  // namespace adept::train
