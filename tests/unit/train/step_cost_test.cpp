#include "adept/model/cost.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <vector>

#include "adept/core/json.h"
#include "adept/io/record.h"
#include "adept/io/weight_files.h"
#include "adept/train/matmul_rate.h"
#include "adept/train/memory.h"
#include "adept/train/methods.h"
#include "adept/train/step_meter.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_models.h"

namespace adept::train {
namespace {

constexpr std::int64_t kSeqLen = 16;

struct CostModel {
  test::TemporaryDirectory dir;
  test::ExpandedModel model;
  io::WeightFiles files;
  model::Decoder decoder;
  Trainable trainable;

  explicit CostModel(const std::function<void(config::RunConfig&)>& change, at::ScalarType dtype = at::kFloat)
      : model(test::write_expanded_model(dir.path(), "llama", {1, 3})),
        files(io::WeightFiles::open(model.expanded)),
        decoder(test::load_decoder(model.expanded, dtype)),
        trainable(decoder, tensors(change)) {}

  std::vector<TrainedTensor> tensors(const std::function<void(config::RunConfig&)>& change) {
    config::RunConfig config;
    change(config);
    return trained_tensors(config, decoder, model.expansion, files);
  }
  model::StepCost cost() const { return model::step_cost(decoder.weights(), trainable.lowest_layer(), kSeqLen); }
};

TEST(StepCost, OfCopiesIsWhatWasPredictedBeforeTheyWereMade) {
  const CostModel s([](config::RunConfig&) {});
  const model::StepCost cost = s.cost();
  const model::ModelConfig base = test::load_decoder(s.model.base).config();
  EXPECT_DOUBLE_EQ(cost.prefix_flops + cost.flops, model::copies_step_flops(base, kSeqLen, std::vector<int>{1, 3}));
  EXPECT_GT(cost.prefix_flops, 0);
}

TEST(StepCost, OfEveryParameterIsThreeForwardPasses) {
  const CostModel s([](config::RunConfig& c) { c.method = Method::kFull; });
  EXPECT_EQ(s.cost().prefix_flops, 0);
  EXPECT_DOUBLE_EQ(s.cost().flops, model::full_step_flops(s.decoder.config(), kSeqLen));
}

TEST(StepCost, OfAdaptersHasNoGradientsOfTheFrozenWeights) {
  const CostModel full([](config::RunConfig& c) { c.method = Method::kFull; });
  const CostModel lora([](config::RunConfig& c) {
    c.method = Method::kLora;
    c.lora.rank = 1;
    c.lora.alpha = 2;
  });
  EXPECT_LT(lora.cost().flops, full.cost().flops);
  EXPECT_GT(lora.cost().flops, 0.6 * full.cost().flops);
}

TEST(StepMeter, ComparesWithTheMachine) {
  StepMeter meter(1e9);
  EXPECT_EQ(meter.speed_of_light(), 0);
  meter.add(2, 100, 1e9);
  meter.add(2, 300, 1e9);
  EXPECT_DOUBLE_EQ(meter.speed_of_light(), 0.5);
  EXPECT_DOUBLE_EQ(meter.tokens_per_second(), 100);
  EXPECT_DOUBLE_EQ(meter.seconds_per_step(), 2);
}

TEST(StepMeter, RaisesARateThatAStepExceeds) {
  StepMeter meter(1e9);
  meter.add(2, 100, 1e9);
  meter.add(1, 100, 2e9);
  EXPECT_DOUBLE_EQ(meter.matmul_rate(), 2e9);
  EXPECT_DOUBLE_EQ(meter.speed_of_light(), 0.5);  // of both, by the new rate
}

TEST(ShortestTime, IsTheBestOfTrialsThatAgree) {
  const auto shortest = [](std::vector<double> times, std::size_t& used) {
    used = 0;
    return detail::shortest_time([&] { return times.at(used++); }, 10);
  };
  std::size_t used = 0;
  EXPECT_EQ(shortest({3, 1.01, 2, 1, 0.5}, used), 1);
  EXPECT_EQ(used, 4U) << "1.01 and 1 agree";
  EXPECT_EQ(shortest({1, 1.5, 2, 2.1, 0.9, 0.8, 0.81, 0.1}, used), 0.8);
  EXPECT_EQ(used, 7U) << "goes on until the best two agree";
  EXPECT_EQ(shortest({6, 5, 4, 3, 1}, used), 3);
  EXPECT_EQ(used, 4U) << "as long as there is time";
}

TEST(MatmulRate, OfABusyMomentIsMeasuredAgain) {
  const test::TemporaryDirectory dir;
  const std::filesystem::path file = dir / "rates.json";
  keep_matmul_rate(1.0, at::kFloat, at::kCPU, file);
  EXPECT_EQ(matmul_rate(at::kFloat, at::kCPU, file), 1.0) << "within the hour it is believed";
  EXPECT_GT(measure_matmul_rate(at::kFloat, at::kCPU, file), 1e8) << "unless a step doubts it";
  for (const double rate : {1.0, 5e15}) {
    Json rates = io::read_record(file);
    Json& known = rates.begin().value();
    known = {{"rate", rate}, {"measured", known["measured"].get<std::int64_t>() - 7200}};
    io::write_record(file, rates);
    const double found = matmul_rate(at::kFloat, at::kCPU, file);
    EXPECT_TRUE(rate == 1.0 ? found > 1e8 && found < 5e15 : found == 5e15) << found << ": the highest counts";
  }
}

TEST(MatmulRate, IsOnlyEverRaised) {
  const test::TemporaryDirectory dir;
  const std::filesystem::path file = dir / "rates.json";
  keep_matmul_rate(5e15, at::kFloat, at::kCPU, file);
  EXPECT_EQ(matmul_rate(at::kFloat, at::kCPU, file), 5e15);
  keep_matmul_rate(4e15, at::kFloat, at::kCPU, file);
  EXPECT_EQ(matmul_rate(at::kFloat, at::kCPU, file), 5e15);
  keep_matmul_rate(6e15, at::kFloat, at::kCPU, file);
  EXPECT_EQ(matmul_rate(at::kFloat, at::kCPU, file), 6e15);
}

TEST(StepMeter, TellsTheSpeedOfTheLastSteps) {
  StepMeter meter(1e9);
  for (int i = 0; i < 100; ++i) meter.add(4, 100, 1e9);
  for (std::size_t i = 0; i < StepMeter::kWindow; ++i) meter.add(1, 100, 0.5e9);
  EXPECT_DOUBLE_EQ(meter.seconds_per_step(), 1);
  EXPECT_DOUBLE_EQ(meter.tokens_per_second(), 100);
  EXPECT_DOUBLE_EQ(meter.speed_of_light(), 0.5);
}

TEST(MatmulRate, IsMeasuredOnceAndKept) {
  const test::TemporaryDirectory dir;
  const std::filesystem::path file = dir / "cache" / "rates.json";
  const double rate = matmul_rate(at::kFloat, at::kCPU, file);
  EXPECT_GT(rate, 1e8);
  EXPECT_EQ(matmul_rate(at::kFloat, at::kCPU, file), rate);
  Json rates = io::read_record(file);
  ASSERT_EQ(rates.size(), 1U);
  rates.begin().value()["rate"] = 123.0;
  io::write_record(file, rates);
  EXPECT_EQ(matmul_rate(at::kFloat, at::kCPU, file), 123.0);
  for (const char* damaged : {"[1]", "{", "", R"({"rate": 1})"}) {
    std::ofstream(file) << damaged;
    EXPECT_GT(matmul_rate(at::kFloat, at::kCPU, file), 1e8) << damaged;
  }
}

TEST(ResidentMemory, CountsEveryTensorOnce) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    CostModel s([](config::RunConfig&) {}, dtype);
    const optim::AdamW optimizer(s.trainable.parameters(), {});
    const MemoryUse memory = resident_memory(s.decoder, s.trainable, optimizer);
    const std::int64_t trained = s.trainable.num_parameters(), all = model::num_parameters(s.decoder.config());
    EXPECT_EQ(memory.masters, 4 * trained);
    EXPECT_EQ(memory.gradients, 0);
    EXPECT_EQ(memory.moments, 8 * trained);
    std::int64_t vectors = 0;
    for (const optim::Parameter& p : s.trainable.parameters()) vectors += p.master.dim() < 2 ? p.master.numel() : 0;
    const std::int64_t frozen = all - trained;
    EXPECT_GT(vectors, 0);
    EXPECT_EQ(memory.weights, dtype == at::kFloat ? 4 * frozen : 2 * (frozen + vectors)) << "bf16 has copies of these";
    EXPECT_EQ(memory.peak, memory.weights + 12 * trained);
  }
}

// Gradients come as the activations of one micro-batch go, and stand beside those of a second one.
TEST(StepMemory, ExplainsItsPeak) {
  const MemoryUse resident = {.weights = 100, .masters = 10, .moments = 20, .peak = 130};
  const StepResult step = {.activation_bytes = 50, .gradient_bytes = 10};
  const MemoryUse one = step_memory(resident, step, 1, 57), two = step_memory(resident, step, 2, 67);
  EXPECT_EQ(one.peak, 187);
  EXPECT_EQ(one.activations, 50);
  EXPECT_EQ(one.gradients, 10);
  EXPECT_EQ(one.work_space, 7);
  EXPECT_EQ(two.peak, 197);
  EXPECT_EQ(two.work_space, 7);
}

TEST(MemoryUse, IsToldByWhatThereIs) {
  EXPECT_EQ(describe({.weights = 1000, .masters = 10, .peak = 1010}), "1.0 kB; weights 1.0 kB, masters 10 B");
  EXPECT_EQ(
      describe({.weights = 1, .moments = 2, .activations = 3, .gradients = 4, .work_space = 5, .cache = 6, .peak = 9}),
      "9 B; weights 1 B, moments 2 B, activations 3 B, gradients 4 B, work space 5 B, on disk: "
      "activation cache 6 B");
}

}  // namespace
}  // namespace adept::train
