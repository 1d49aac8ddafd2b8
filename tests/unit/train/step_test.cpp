// What is trained and what is not, and one update: the oracles of the method.
#include "adept/train/step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adept/core/error.h"
#include "adept/method/unit_rates.h"
#include "adept/model/torch_tensors.h"
#include "adept/train/memory.h"
#include "tests/support/forward_without.h"
#include "tests/support/tolerance.h"
#include "tests/unit/train/ready_model.h"

namespace adept::train {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Trainable, HoldsExactlyTheUnitsAndNothingElseAsksForAGradient) {
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      ReadyModel s(kind, dtype);
      const auto units = test::names_of(method::make_units(s.model.expansion, s.decoder));
      std::set<std::string> found;
      std::int64_t elements = 0;
      for (const optim::Parameter& p : s.trainable.parameters()) {
        EXPECT_TRUE(found.insert(p.name).second) << p.name;
        EXPECT_EQ(p.master.scalar_type(), at::kFloat);
        elements += p.master.numel();
      }
      EXPECT_EQ(found, std::set<std::string>(units.begin(), units.end()));
      EXPECT_EQ(s.trainable.num_parameters(), elements);
      EXPECT_EQ(s.trainable.lowest_layer(), 2);
      for (const auto& p : model::named_parameters(s.decoder.config(), s.decoder.weights())) {
        EXPECT_EQ(p.tensor->requires_grad(), found.contains(p.name)) << p.name;
        const bool is_master = found.contains(p.name) && p.tensor->dim() == 2;
        EXPECT_EQ(p.tensor->scalar_type(), is_master ? at::kFloat : dtype) << p.name;
      }
    }
  }
}

TEST(Trainable, MastersAreTheFilesValuesInFullPrecisionEvenIfTheModelComputesInBf16) {
  ReadyModel s("qwen3", at::kBFloat16);
  std::int64_t rounded = 0;
  for (const optim::Parameter& p : s.trainable.parameters()) {
    const at::Tensor stored = model::as_tensor(s.files.at(p.name), s.files.owner(p.name));
    EXPECT_TRUE(test::same_bits(p.master, stored)) << p.name;
    rounded += p.master.ne(p.master.to(at::kBFloat16).to(at::kFloat)).sum().item<std::int64_t>();
  }
  EXPECT_GT(rounded, 0) << "the values would survive bf16, so nothing was shown";
}

// Plain AdamW on all units at once, matrices with and vectors without weight decay.
struct PlainAdamW {
  std::vector<at::Tensor> values[2], first[2], second[2];
  std::vector<std::string> names[2];

  explicit PlainAdamW(const Trainable& trainable) {
    for (const optim::Parameter& p : trainable.parameters()) {
      const int group = p.master.dim() >= 2 ? 0 : 1;
      names[group].push_back(p.name);
      values[group].push_back(p.master.clone());
      first[group].push_back(at::zeros_like(p.master));
      second[group].push_back(at::zeros_like(p.master));
    }
  }
  void step(const std::map<std::string, at::Tensor>& gradients, int update, double rate, double decay,
            double grad_factor) {
    for (int group = 0; group < 2; ++group) {
      std::vector<at::Tensor> grads, counts;
      for (const std::string& name : names[group]) {
        grads.push_back(gradients.at(name).clone());
        counts.push_back(at::full({}, static_cast<double>(update), at::kFloat));
      }
      std::optional<at::Tensor> scale;
      if (grad_factor != 1.0) scale = at::full({}, 1.0 / grad_factor, at::kFloat);
      at::_fused_adamw_(values[group], grads, first[group], second[group], {}, counts, rate, 0.9, 0.95,
                        group == 0 ? decay : 0.0, 1e-8, false, false, scale);
    }
  }
};

TEST(TrainStep, WithAllUnitWeightsOneIsPlainAdamWOnTheCopiesBitForBit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const double max_grad_norm : {0.0, 0.05}) {
      SCOPED_TRACE(max_grad_norm);
      ReadyModel s("qwen3", dtype), reference("qwen3", dtype);
      optim::AdamW optimizer(s.trainable.parameters(), {.weight_decay = 0.1});
      PlainAdamW plain(reference.trainable);
      method::UnitValues equal;
      const auto units = method::make_units(s.model.expansion, s.decoder);
      for (const method::Unit& unit : units) equal[unit.name] = 0.5;
      const auto weights = method::unit_lr_weights("reference", units, equal);
      for (int update = 1; update <= 4; ++update) {
        const double rate = 1e-2 / update;
        std::map<std::string, double> rates;
        for (const auto& [name, weight] : weights) rates[name] = rate * weight;
        const std::vector<model::Batch> batches = {test::random_batch({9, 4}, static_cast<std::uint64_t>(update)),
                                                   test::random_batch({6}, 50)};
        const StepResult result = train_step(s.decoder, s.trainable, optimizer, batches,
                                             test::whole_rates(s.trainable.parameters(), rates), max_grad_norm);
        ASSERT_TRUE(result.finite);
        if (max_grad_norm > 0) {
          ASSERT_GT(result.grad_norm, max_grad_norm) << "nothing is clipped";
        }
        compute_gradients(reference.decoder, reference.trainable, batches);
        plain.step(reference.gradients(), update, rate, 0.1, optim::clip_factor(result.grad_norm, max_grad_norm));
        const at::NoGradGuard no_grad;
        for (const optim::Parameter& p : reference.trainable.parameters())
          for (int group = 0; group < 2; ++group)
            for (std::size_t i = 0; i < plain.names[group].size(); ++i)
              if (plain.names[group][i] == p.name) p.master.copy_(plain.values[group][i]);
        reference.trainable.publish();
      }
      const auto masters = s.masters();
      for (int group = 0; group < 2; ++group)
        for (std::size_t i = 0; i < plain.names[group].size(); ++i) {
          const std::string& name = plain.names[group][i];
          EXPECT_TRUE(test::same_bits(masters.at(name), plain.values[group][i])) << name;
          EXPECT_TRUE(test::same_bits(optimizer.moments().at(name).exp_avg, plain.first[group][i])) << name;
          EXPECT_TRUE(test::same_bits(optimizer.moments().at(name).exp_avg_sq, plain.second[group][i])) << name;
        }
    }
  }
}

TEST(TrainStep, AUnitWithWeightZeroStaysBitIdenticalWhileTheOthersMove) {
  for (const std::string still : {"model.layers.2.self_attn.o_proj.weight", "model.layers.5.mlp.gate_proj.weight",
                                  "model.layers.5.input_layernorm.weight"}) {
    SCOPED_TRACE(still);
    ReadyModel s("qwen3");
    s.train(2);  // a copy with an output of zero has gradients nowhere else
    const auto before = s.masters();
    optim::AdamW optimizer(s.trainable.parameters(), {.weight_decay = 0.1});
    auto rates = s.rates(1e-2);
    rates.at(still).front().rate = 0;
    for (std::uint64_t i = 1; i <= 4; ++i) {
      const std::vector<model::Batch> batches = {test::random_batch({9, 4, 7}, i)};
      train_step(s.decoder, s.trainable, optimizer, batches, rates, 1.0);
    }
    for (const auto& [name, master] : s.masters())
      EXPECT_EQ(test::same_bits(master, before.at(name)), name == still) << name;
  }
}

TEST(TrainStep, ShowsTheDecoderTheNewMasters) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    ReadyModel s("llama_biased_tied", dtype);
    s.train(2);
    const auto shown = test::parameters_of(s.decoder);
    for (const auto& [name, master] : s.masters())
      EXPECT_TRUE(test::same_bits(shown.at(name), master.to(shown.at(name).scalar_type()))) << name;
  }
}

TEST(TrainStep, FrozenTensorsKeepTheirBytes) {
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      ReadyModel s(kind, dtype);
      const auto before = test::parameters_of(s.decoder);
      const FrozenTensors frozen(s.decoder, s.trainable);
      s.train(3);
      frozen.verify();
      std::set<std::string> trained;
      for (const optim::Parameter& p : s.trainable.parameters()) trained.insert(p.name);
      for (const auto& [name, value] : test::parameters_of(s.decoder))
        EXPECT_EQ(test::same_bits(value, before.at(name)), !trained.contains(name)) << name;
    }
  }
}

TEST(TrainStep, WithMatricesInTheNarrowerTypeOfTheFileIsThatWithWideOnesBitForBit) {
  for (const std::string& kind : test::model_kinds())
    for (const DType stored : {DType::kBF16, DType::kF16}) {
      SCOPED_TRACE(kind);
      ReadyModel narrow(kind, at::kFloat, kAfter, 4, stored), wide(kind, at::kFloat, kAfter, 4, stored, true);
      const auto read = test::parameters_of(wide.decoder);
      for (const auto& [name, value] : test::parameters_of(narrow.decoder))
        EXPECT_TRUE(test::same_bits(value.to(at::kFloat), read.at(name).to(at::kFloat))) << name;
      EXPECT_EQ(frozen_hash("xxh3:1", narrow.decoder, narrow.trainable),
                frozen_hash("xxh3:1", wide.decoder, wide.trainable));
      const auto weights = [](const ReadyModel& s) {
        return resident_memory(s.decoder, s.trainable, optim::AdamW(s.trainable.parameters(), {})).weights;
      };
      EXPECT_LT(weights(narrow), 0.75 * static_cast<double>(weights(wide)));
      narrow.train(3);
      wide.train(3);
      const auto expected = wide.masters();
      for (const auto& [name, master] : narrow.masters())
        EXPECT_TRUE(test::same_bits(master, expected.at(name))) << name;
    }
}

TEST(FrozenTensors, SeesAWriteToEveryFrozenTensorAndNoTrainedOne) {
  ReadyModel s("llama_biased_tied");
  const at::NoGradGuard no_grad;
  for (const auto& p : model::named_parameters(s.decoder.config(), s.decoder.weights()))
    if (p.layer != 2 && p.layer != 5) *p.tensor = p.tensor->clone();  // some are mapped: a write would end the test
  const auto message_of = [](const FrozenTensors& frozen) {
    return test::message_of<InternalError>([&] { frozen.verify(); });
  };
  for (const auto& p : model::named_parameters(s.decoder.config(), s.decoder.weights())) {
    const FrozenTensors now(s.decoder, s.trainable);
    p.tensor->view(-1)[p.tensor->numel() - 1] += 1e-3;
    const bool is_frozen = p.layer != 2 && p.layer != 5;
    if (!is_frozen) {
      now.verify();
      continue;
    }
    EXPECT_THAT(message_of(now), AllOf(HasSubstr(p.name), HasSubstr("changed during training")));
    const FrozenTensors before(s.decoder, s.trainable);
    *p.tensor = p.tensor->clone();
    EXPECT_THAT(message_of(before), HasSubstr(p.name)) << "another tensor is in its place";
  }
}

TEST(FrozenHash, TellsWeightsTypesAndWhatTrains) {
  const ReadyModel s("llama"), other("llama", at::kFloat, {0, 3}), narrow("llama", at::kBFloat16);
  const std::string hash = frozen_hash("xxh3:1", s.decoder, s.trainable);
  EXPECT_EQ(frozen_hash("xxh3:1", s.decoder, s.trainable), hash);
  EXPECT_NE(frozen_hash("xxh3:2", s.decoder, s.trainable), hash);
  EXPECT_NE(frozen_hash("xxh3:1", other.decoder, other.trainable), hash);
  EXPECT_NE(frozen_hash("xxh3:1", narrow.decoder, narrow.trainable), hash);
}

TEST(TrainStep, BypassingTheCopiesOfATrainedModelGivesExactlyTheBase) {
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      ReadyModel s(kind, dtype);
      s.train(3);
      const at::NoGradGuard no_grad;
      const model::Decoder base = test::load_decoder(s.model.base, dtype);
      const nn::TokenIds ids = test::random_batch({17, 11}).input_ids;
      const at::Tensor expected = base.logits(base.forward(ids, {}));
      EXPECT_TRUE(test::same_bits(s.decoder.logits(test::forward_without({2, 5}, s.decoder, ids, {})), expected));
      EXPECT_FALSE(s.decoder.logits(s.decoder.forward(ids, {})).equal(expected)) << "training had no effect";
    }
  }
}

TEST(TrainStep, ALossThatIsNotFiniteChangesNoParameterAndNoMoment) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    ReadyModel s("llama", dtype);
    optim::AdamW optimizer(s.trainable.parameters(), {});
    const std::vector<model::Batch> batches = {test::random_batch({9, 4})};
    ASSERT_TRUE(train_step(s.decoder, s.trainable, optimizer, batches, s.rates(1e-2), 1.0).finite);
    s.trainable.parameters()[3].master.view(-1)[0] = std::nan("");
    s.trainable.publish();
    const auto masters = s.masters();
    std::map<std::string, at::Tensor> first, second;
    for (const auto& [name, moments] : optimizer.moments()) {
      first[name] = moments.exp_avg.clone();
      second[name] = moments.exp_avg_sq.clone();
    }
    const StepResult result = train_step(s.decoder, s.trainable, optimizer, batches, s.rates(1e-2), 1.0);
    EXPECT_FALSE(result.finite);
    EXPECT_EQ(result.num_targets, 11);
    EXPECT_EQ(optimizer.num_updates(), 1);
    for (const auto& [name, master] : s.masters()) EXPECT_TRUE(test::same_bits(master, masters.at(name))) << name;
    for (const auto& [name, moments] : optimizer.moments()) {
      EXPECT_TRUE(test::same_bits(moments.exp_avg, first.at(name))) << name;
      EXPECT_TRUE(test::same_bits(moments.exp_avg_sq, second.at(name))) << name;
    }
  }
}

}  // namespace
}  // namespace adept::train
