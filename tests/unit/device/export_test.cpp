// Files of a model that trains on a device: checkpoints, and the exported model.
#include "adept/train/export_trained.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "adept/io/companion_files.h"
#include "adept/io/record.h"
#include "adept/model/torch_tensors.h"
#include "adept/train/checkpoint.h"
#include "adept/train/methods.h"
#include "tests/support/stand_in_device.h"
#include "tests/support/tiny_models.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

struct ExportCase {
  std::string name, kind;
  Method method;
  bool trains_rows = false;
};

const std::vector<ExportCase>& export_cases() {
  static const std::vector<ExportCase> cases = {{"copies", "llama", Method::kAdept},
                                                {"full", "llama", Method::kFull},
                                                {"tied_head", "llama_biased_tied", Method::kFull},
                                                {"lora", "llama", Method::kLora},
                                                {"new_tokens", "llama", Method::kAdept, true}};
  return cases;
}

/// A model whose trained tensors have changed, with its decoder on a device.
class Trained {
 public:
  Trained(const ExportCase& c, at::Device device) : model_(test::write_expanded_model(dir_.path(), c.kind, {1, 3})) {
    config_ = small_config();
    config_.method = c.method;
    if (c.method != Method::kAdept) config_.unit_lr.policy = "uniform";
    config_.lora.rank = 2;
    config_.lora.alpha = 6.0;
    config_.train.train_new_embeddings = c.trains_rows;
    start_ = config_.expands() ? model_.expanded : model_.base;
    if (c.trains_rows)
      io::write_record(start_ / io::kAddedTokensRecord, {{"version", 1}, {"tokens", {{{"id", 7}, {"token", "t"}}}}});
    if (config_.expands()) expansion_ = model_.expansion;
    files_ = io::WeightFiles::open(start_);
    decoder_.emplace(model::load_decoder(start_, {.device = device}));
    trainable_.emplace(*decoder_, trained_tensors(config_, *decoder_, expansion_, *files_));
    const at::NoGradGuard no_grad;
    optimizer_.emplace(trainable_->parameters(), optim::AdamWOptions{});
    at::manual_seed(1);
    for (const optim::Parameter& p : trainable_->parameters()) {
      const optim::Moments& moments = optimizer_->moments().at(p.name);
      for (const at::Tensor& tensor : {p.master, moments.exp_avg, moments.exp_avg_sq})
        tensor.copy_(at::randn(tensor.sizes()) * 0.1);
    }
  }

  /// On the device, or on the host, as those that several ranks divide.
  std::vector<optim::NamedPart> state(bool on_host) {
    std::vector<optim::NamedPart> parts = optimizer_->state();
    shards_.clear();
    for (optim::NamedPart& part : parts)
      shards_.push_back(optim::row_shard(part.values.sizes(), Trainable::this_process()));
    for (std::size_t i = 0; i < parts.size(); ++i)
      if (on_host) parts[i].shard = &shards_[i];
    return parts;
  }

  /// The exported weights, by name.
  std::map<std::string, at::Tensor> exported(bool on_host, const std::string& out) {
    optim::WholeTensors tensors(state(on_host));
    tensors.on_first([&] {
      export_trained({.config = config_,
                      .model_dir = start_,
                      .trained_from = {},
                      .files = *files_,
                      .decoder = *decoder_,
                      .trainable = *trainable_,
                      .tensors = tensors,
                      .expansion = expansion_,
                      .steps = 1,
                      .data = {}},
                     dir_ / out);
    });
    std::map<std::string, at::Tensor> values;
    const io::WeightFiles files = io::WeightFiles::open(dir_ / out);
    for (const std::string& name : files.names()) values[name] = model::as_tensor(files.at(name), files.owner(name));
    return values;
  }

  /// The bytes of the files of a checkpoint.
  std::vector<std::string> saved(bool on_host) {
    optim::WholeTensors tensors(state(on_host));
    fs::path checkpoint;
    tensors.on_first([&] { checkpoint = save_checkpoint(dir_.path(), {}, {}, *optimizer_, tensors); });
    std::vector<std::string> bytes;
    for (const char* file : {"trainable.safetensors", "optimizer.safetensors", "trainer_state.json"})
      bytes.push_back(test::read_file(checkpoint / file));
    return bytes;
  }

  std::map<std::string, at::Tensor> stored() const {
    std::map<std::string, at::Tensor> values;
    for (const std::string& name : files_->names())
      values[name] = model::as_tensor(files_->at(name), files_->owner(name));
    return values;
  }

 private:
  test::TemporaryDirectory dir_;
  test::ExpandedModel model_;
  config::RunConfig config_;
  fs::path start_;
  std::optional<method::Expansion> expansion_;
  std::optional<io::WeightFiles> files_;
  std::optional<model::Decoder> decoder_;
  std::optional<Trainable> trainable_;
  std::optional<optim::AdamW> optimizer_;
  std::vector<optim::Shard> shards_;
};

class DeviceFiles : public testing::TestWithParam<ExportCase> {};

TEST_P(DeviceFiles, OfAnExportAreThoseOfTheProcessor) {
  Trained on_cpu(GetParam(), at::kCPU), on_device(GetParam(), test::kStandIn);
  const auto expected = on_cpu.exported(false, "out"), stored = on_cpu.stored();
  std::int64_t num_changed = 0;
  for (const auto& [name, value] : expected) num_changed += value.equal(stored.at(name)) ? 0 : 1;
  EXPECT_GT(num_changed, 0);
  for (const bool on_host : {false, true}) {
    const auto found = on_device.exported(on_host, on_host ? "divided" : "whole");
    ASSERT_EQ(found.size(), expected.size());
    // Another kernel multiplies adapters.
    const double tolerance = GetParam().method == Method::kLora ? 1e-6 : 0;
    for (const auto& [name, value] : expected)
      EXPECT_TRUE(found.at(name).allclose(value, tolerance, tolerance)) << name << ", on the host: " << on_host;
  }
}

TEST_P(DeviceFiles, OfACheckpointAreThoseOfTheProcessor) {
  Trained on_cpu(GetParam(), at::kCPU), on_device(GetParam(), test::kStandIn);
  const auto expected = on_cpu.saved(false);
  for (const bool on_host : {false, true}) EXPECT_EQ(on_device.saved(on_host), expected) << on_host;
}

INSTANTIATE_TEST_SUITE_P(Cases, DeviceFiles, testing::ValuesIn(export_cases()),
                         [](const auto& c) { return c.param.name; });

}  // namespace
}  // namespace adept::train
