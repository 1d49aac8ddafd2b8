// Each method: what it trains, that it resumes, and that its export is the model that was trained.
#include "adept/train/methods.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "adept/core/error.h"
#include "adept/train/step.h"
#include "tests/support/reads.h"
#include "tests/support/tolerance.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using test::Says;
using ::testing::HasSubstr;

const std::vector<Method> kAllMethods = {Method::kAdept,  Method::kLlamaPro, Method::kFull,
                                         Method::kReplay, Method::kLora,     Method::kTopKLayers};

config::RunConfig config_of(Method method) {
  config::RunConfig config = small_config();
  config.method = method;
  if (method != Method::kAdept) config.unit_lr.policy = "uniform";
  config.lora.rank = 2;
  config.lora.alpha = 6.0;
  config.top_k_layers.num_layers = 2;
  return config;
}

const std::filesystem::path& start_of(const config::RunConfig& config, const test::ExpandedModel& model) {
  return config.expands() ? model.expanded : model.base;
}

std::optional<method::Expansion> expansion_of(const config::RunConfig& config, const test::ExpandedModel& model) {
  return config.expands() ? std::optional(model.expansion) : std::nullopt;
}

std::set<std::string> trained_names(const config::RunConfig& config, const test::ExpandedModel& model) {
  const auto& dir = start_of(config, model);
  model::Decoder decoder = test::load_decoder(dir);
  std::set<std::string> names;
  for (const TrainedTensor& t :
       trained_tensors(config, decoder, expansion_of(config, model), io::WeightFiles::open(dir)))
    names.insert(t.name);
  return names;
}

std::set<std::string> names_where(const std::filesystem::path& dir,
                                  const std::function<bool(const model::Parameter&)>& choose) {
  model::Decoder decoder = test::load_decoder(dir);
  std::set<std::string> names;
  for (const auto& p : model::named_parameters(decoder.config(), decoder.weights()))
    if (choose(p)) names.insert(p.name);
  return names;
}

// Both adapter matrices of the chosen matrices of the layers.
std::set<std::string> adapters_where(const std::filesystem::path& dir,
                                     const std::function<bool(std::string_view module)>& choose) {
  std::set<std::string> adapters;
  for (const std::string& name : names_where(dir, [](const auto& p) { return p.layer >= 0 && p.shape.size() == 2; })) {
    const std::string module = name.substr(0, name.rfind('.'));
    if (!choose(module)) continue;
    for (const char* side : {"A", "B"}) adapters.insert(fmt::format("{}.lora_{}.weight", module, side));
  }
  return adapters;
}

TEST(Methods, TrainWhatTheirNamesSay) {
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), kind, {1, 3});
    const auto copies = names_where(model.expanded, [](const auto& p) { return p.layer == 2 || p.layer == 5; });
    EXPECT_EQ(trained_names(config_of(Method::kAdept), model), copies);
    EXPECT_EQ(trained_names(config_of(Method::kLlamaPro), model), copies);
    const auto all = names_where(model.base, [](const auto&) { return true; });
    EXPECT_EQ(trained_names(config_of(Method::kFull), model), all);
    EXPECT_EQ(trained_names(config_of(Method::kReplay), model), all);
    EXPECT_EQ(trained_names(config_of(Method::kTopKLayers), model),
              names_where(model.base, [](const auto& p) { return p.layer >= 2; }));
    config::RunConfig lora = config_of(Method::kLora);
    EXPECT_EQ(trained_names(lora, model), adapters_where(model.base, [](std::string_view) { return true; }));
    const model::ModelConfig parsed = test::tiny_config(test::config_of_kind(kind));
    const auto projections = model::projections_of(parsed.layers.front());
    const std::string first(projections.front()->module_name()), last(projections.back()->module_name());
    lora.lora.target_modules = {first, last};
    EXPECT_EQ(trained_names(lora, model), adapters_where(model.base, [&](std::string_view module) {
                return module.ends_with("." + first) || module.ends_with("." + last);
              }));
  }
}

at::Tensor logits_of(const model::Decoder& decoder) {
  const at::NoGradGuard no_grad;
  return decoder.logits(decoder.forward(test::random_batch({11, 6}, 3).input_ids, {}));
}

TEST(Methods, StartAsTheBaseModelByValue) {
  for (const Method method : kAllMethods) {
    SCOPED_TRACE(config::to_string(method));
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), "qwen3", {1, 3});
    const config::RunConfig config = config_of(method);
    const auto& start = start_of(config, model);
    const io::WeightFiles files = io::WeightFiles::open(start);
    model::Decoder decoder = test::load_decoder(start);
    const Trainable trainable(decoder, trained_tensors(config, decoder, expansion_of(config, model), files));
    EXPECT_TRUE(at::equal(logits_of(decoder), logits_of(test::load_decoder(model.base))));
  }
}

TEST(Methods, GradientsAreThoseOfOneGraphOverTheWholeModel) {
  for (const std::string kind : {"llama", "llama_biased_tied"}) {
    for (const Method method : kAllMethods) {
      SCOPED_TRACE(fmt::format("{} {}", kind, config::to_string(method)));
      const test::TemporaryDirectory dir;
      const auto model = test::write_expanded_model(dir.path(), kind, {1, 3});
      const config::RunConfig config = config_of(method);
      const auto& start = start_of(config, model);
      const io::WeightFiles files = io::WeightFiles::open(start);
      model::Decoder decoder = test::load_decoder(start);
      Trainable trainable(decoder, trained_tensors(config, decoder, expansion_of(config, model), files));
      const std::vector<model::Batch> batches = {test::random_batch({9, 4}, 1), test::random_batch({13}, 2)};
      const StepResult result = compute_gradients(decoder, trainable, batches);
      std::map<std::string, at::Tensor> found;
      const auto& parameters = trainable.parameters();
      for (std::size_t i = 0; i < parameters.size(); ++i) found[parameters[i].name] = trainable.gradients()[i].clone();
      trainable.drop_gradients();
      at::Tensor loss;
      for (const model::Batch& batch : batches) {
        const at::Tensor part = decoder.loss_sum(decoder.forward(batch.input_ids, {}), batch.targets);
        loss = loss.defined() ? loss + part : part;
      }
      (loss / static_cast<double>(batches[0].num_targets + batches[1].num_targets)).backward();
      EXPECT_NEAR(result.loss * 23, loss.item<double>(), 1e-3);
      trainable.collect_gradients();
      for (std::size_t i = 0; i < parameters.size(); ++i)
        EXPECT_TRUE(test::is_close(found.at(parameters[i].name), trainable.gradients()[i],
                                   test::tolerance(at::kFloat).gradients))
            << parameters[i].name;
    }
  }
}

TEST(Methods, ResumeBitForBitDropoutIncluded) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const Method method : kAllMethods) {
      SCOPED_TRACE(config::to_string(method));
      const test::TemporaryDirectory dir;
      const auto model = test::write_expanded_model(dir.path(), "llama_biased_tied", {1, 3});
      config::RunConfig config = config_of(method);
      config.compute.dtype = dtype == at::kFloat ? config::DTypeChoice::kFp32 : config::DTypeChoice::kBf16;
      config.train.max_steps = 6;
      config.lora.dropout = 0.3;
      train(config, start_of(config, model), dir / "whole");
      copy_killed_after(dir / "whole", dir / "resumed", 3);
      at::manual_seed(99);
      train(config, start_of(config, model), dir / "resumed", /*resume=*/true);
      expect_same_tensors(dir / "resumed", dir / "whole", "checkpoint-6");
    }
  }
}

TEST(Methods, ExportTheModelThatWasTrained) {
  for (const std::string& kind : test::model_kinds()) {
    for (const Method method : kAllMethods) {
      SCOPED_TRACE(fmt::format("{} {}", kind, config::to_string(method)));
      const test::TemporaryDirectory dir;
      const auto model = test::write_expanded_model(dir.path(), kind, {1, 3});
      config::RunConfig config = config_of(method);
      config.train.max_steps = 3;
      Trainer trainer(make_inputs(config, start_of(config, model), dir / "run"));
      trainer.run(/*resume=*/false);
      trainer.export_model(dir / "out");
      const at::Tensor trained = logits_of(trainer.decoder()), base = logits_of(test::load_decoder(model.base));
      EXPECT_GT((trained - base).abs().max().item<double>(), 1e-3) << "nothing was learnt";
      const at::Tensor exported = logits_of(test::load_decoder(dir / "out"));
      if (method == Method::kLora)
        EXPECT_TRUE(test::is_close(exported, trained, test::tolerance(at::kFloat).values));
      else
        EXPECT_TRUE(test::same_bits(exported, trained));
      EXPECT_EQ(read_json(dir / "out" / method::kTrainingRecord)["method"], std::string(config::to_string(method)));
      EXPECT_EQ(fs::exists(dir / "out" / method::kExpansionManifest), config.expands());
    }
  }
}

TEST(Lora, LeavesEveryTensorWithoutAnAdapterAsItWas) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "qwen3", {1});
  config::RunConfig config = config_of(Method::kLora);
  config.train.max_steps = 2;
  config.lora.target_modules = {"v_proj"};
  Trainer trainer(make_inputs(config, model.base, dir / "run"));
  trainer.run(/*resume=*/false);
  trainer.export_model(dir / "out");
  const io::WeightFiles before = io::WeightFiles::open(model.base), after = io::WeightFiles::open(dir / "out");
  for (const std::string& name : before.names()) {
    const auto a = before.at(name).data, b = after.at(name).data;
    const bool same = a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
    EXPECT_EQ(same, !name.ends_with("v_proj.weight")) << name;
  }
}

TEST(Lora, DropsOnlyWhileAGraphIsRecorded) {
  const nn::LoraAdapter adapter{.a = at::ones({1, 1000}), .b = at::ones({1, 1}), .scale = 2, .dropout = 0.5};
  const at::Tensor x = at::ones({1, 1000}), weight = at::zeros({1, 1000});
  {
    const at::NoGradGuard no_grad;
    EXPECT_EQ(nn::with_adapters({nn::linear(x, weight)}, {x}, {adapter}).front().item<double>(), 2000);
  }
  at::manual_seed(1);
  const double dropped = nn::with_adapters({nn::linear(x, weight)}, {x}, {adapter}).front().item<double>();
  EXPECT_NE(dropped, 2000);
  EXPECT_NEAR(dropped, 2000, 400) << "its mean is kept";
}

TEST(CheckMethod, NamesWhatTheModelDoesNotHave) {
  const model::ModelConfig model = model::parse_model_config(test::config_of_kind("llama"), "config.json");
  config::RunConfig config = config_of(Method::kTopKLayers);
  config.top_k_layers.num_layers = 5;
  EXPECT_THAT(test::message_of<ConfigError>([&] { check_method(config, model, "base"); }),
              Says("top_k_layers.num_layers: found 5; expected at most 4...base"));
  config = config_of(Method::kLora);
  config.lora.rank = 1000;
  EXPECT_THAT(test::message_of<ConfigError>([&] { check_method(config, model, "base"); }),
              HasSubstr("lora.rank: found 1000; expected at most 8"));
  config.lora.target_modules = {"q_proj", "qkv_proj"};
  EXPECT_THAT(test::message_of<ConfigError>([&] { check_method(config, model, "base"); }),
              Says("lora.target_modules.1: found \"qkv_proj\"; expected ...q_proj, k_proj, v_proj, o_proj, gate_proj, "
                   "up_proj, down_proj...base"));
  for (const Method method : kAllMethods) EXPECT_NO_THROW(check_method(config_of(method), model, "base"));
}

}  // namespace
}  // namespace adept::train
