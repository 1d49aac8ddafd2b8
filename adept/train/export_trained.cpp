#include "adept/train/export_trained.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sum.h>

#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "adept/core/log.h"
#include "adept/io/atomic_file.h"
#include "adept/model/save.h"
#include "adept/model/torch_tensors.h"
#include "adept/nn/linear.h"

namespace adept::train {
namespace {

// Of what was learnt, as root mean squares.
constexpr double kMuchRounding = 0.1;

// What training made of the tensors of the files, by their names there.
class TrainedValues {
 public:
  explicit TrainedValues(const TrainedModel& model) : model_(model) {
    for (const optim::Parameter& p : model.trainable.parameters()) masters_[p.name] = p.master;
    // A file may hold a tied head too.
    if (const auto table = masters_.find("model.embed_tokens.weight");
        table != masters_.end() && model.decoder.config().tie_word_embeddings)
      masters_["lm_head.weight"] = table->second;
  }

  bool contains(const std::string& name) const { return masters_.contains(name) || has_adapter(name); }

  // In fp32.
  at::Tensor value(const std::string& name) const {
    if (!has_adapter(name)) return masters_.at(name).detach();
    const double scale = model_.config.lora.alpha.value() / static_cast<double>(model_.config.lora.rank);
    const at::Tensor weight = model::as_tensor(model_.files.at(name), model_.files.owner(name));
    return nn::merged_weight(
        weight.to(model_.decoder.device()),
        {.a = masters_.at(adapter(name, "lora_A")), .b = masters_.at(adapter(name, "lora_B")), .scale = scale});
  }

 private:
  static std::string adapter(const std::string& name, const char* part) {
    return fmt::format("{}.{}.weight", name.substr(0, name.rfind('.')), part);
  }
  bool has_adapter(const std::string& name) const {
    return name.ends_with(".weight") && masters_.contains(adapter(name, "lora_A"));
  }

  const TrainedModel& model_;
  std::map<std::string, at::Tensor> masters_;
};

// What rounding takes from what was learnt.
class Rounding {
 public:
  void add(const at::Tensor& before, const at::Tensor& trained, const at::Tensor& exported) {
    learnt_ += squares(trained - before.to(at::kFloat));
    rounded_ += squares(trained - exported.to(at::kFloat));
  }
  double share() const { return learnt_ > 0 ? std::sqrt(rounded_ / learnt_) : 0; }

 private:
  static double squares(const at::Tensor& difference) { return difference.square().sum(at::kDouble).item<double>(); }

  double learnt_ = 0, rounded_ = 0;
};

// The tensors of the files, trained ones as they are to be written.
std::vector<io::TensorView> exported_views(const TrainedModel& model, const TrainedValues& trained) {
  const config::ExportDType wanted = model.config.export_dtype;
  std::vector<io::TensorView> views;
  for (const std::string& name : model.files.names()) {
    views.push_back(model.files.at(name));
    if (wanted != config::ExportDType::kAuto && trained.contains(name))
      views.back().dtype = wanted == config::ExportDType::kFp32 ? DType::kF32 : DType::kBF16;
  }
  return views;
}

// config.json; transformers loads the model in the type that it names.
Json exported_config(const TrainedModel& model) {
  const config::ExportDType wanted = model.config.export_dtype;
  Json json = model.decoder.config().source;
  for (const char* key : {"torch_dtype", "dtype"})
    if (wanted != config::ExportDType::kAuto && json.contains(key))
      json[key] = wanted == config::ExportDType::kFp32 ? "float32" : "bfloat16";
  return json;
}

}  // namespace

void export_trained(const TrainedModel& model, const std::filesystem::path& out_dir) {
  const TrainedValues trained(model);
  Rounding rounding;
  at::Tensor exported;  // one at a time: with every parameter trained they would be a second model
  const auto read = [&](const io::TensorView& view) -> std::span<const std::byte> {
    if (!trained.contains(view.name)) return view.data;
    const at::Tensor value = trained.value(view.name).cpu();
    exported = value.to(model::to_scalar_type(view.dtype)).contiguous();
    rounding.add(model::as_tensor(model.files.at(view.name), model.files.owner(view.name)), value, exported);
    return model::as_view(view.name, exported).data;
  };
  io::AtomicDirectory directory(out_dir, io::OnExisting::kReplace);
  model::write_model_files(directory.path(), exported_views(model, trained), exported_config(model), model.model_dir,
                           read);
  if (rounding.share() > kMuchRounding)
    spdlog::warn(
        "rounding the trained tensors for the exported model changes them by {:.0f} % of what training did; "
        "export_dtype: fp32 keeps it",
        100 * rounding.share());
  const Json record = {{"method", std::string(config::to_string(model.config.method))},
                       {"trained_from", model.files.hash()},
                       {"steps", model.steps},
                       {"trained_parameters", model.trainable.num_parameters()},
                       {"rounding", rounding.share()}};
  io::write_file_atomically(directory.path() / method::kTrainingRecord, record.dump(2) + "\n");
  if (model.expansion)
    io::write_file_atomically(directory.path() / method::kExpansionManifest, to_json(*model.expansion).dump(2) + "\n");
  directory.commit();
}

}  // namespace adept::train
