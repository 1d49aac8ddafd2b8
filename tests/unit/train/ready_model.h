// An expanded model that is ready to train.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "adept/io/weight_files.h"
#include "adept/train/methods.h"
#include "adept/train/step.h"
#include "adept/train/trainable.h"
#include "tests/support/tiny_models.h"
#include "tests/support/whole_rates.h"

namespace adept::train {

inline const std::vector<int> kAfter = {1, 3};

struct ReadyModel {
  test::TemporaryDirectory dir;
  test::ExpandedModel model;
  io::WeightFiles files;
  model::Decoder decoder;
  Trainable trainable;

  explicit ReadyModel(const std::string& kind, at::ScalarType dtype = at::kFloat,
                      const std::vector<int>& after = kAfter, int num_layers = 4, DType stored = DType::kF32,
                      bool widen_matrices = false)
      : model(test::write_expanded_model(dir.path(), kind, after, stored, num_layers)),
        files(io::WeightFiles::open(model.expanded)),
        decoder(test::load_decoder(model.expanded, dtype, widen_matrices)),
        trainable(decoder, expanded_tensors(decoder, model.expansion, files)) {}

  optim::ParameterRates rates(double rate) const {
    std::map<std::string, double> rates;
    for (const optim::Parameter& p : trainable.parameters()) rates[p.name] = rate;
    return test::whole_rates(trainable.parameters(), rates);
  }
  std::map<std::string, at::Tensor> masters() const {
    std::map<std::string, at::Tensor> copies;
    for (const optim::Parameter& p : trainable.parameters()) copies[p.name] = p.master.clone();
    return copies;
  }
  std::map<std::string, at::Tensor> gradients() const {
    std::map<std::string, at::Tensor> copies;
    for (std::size_t i = 0; i < trainable.parameters().size(); ++i)
      copies[trainable.parameters()[i].name] = trainable.gradients()[i].clone();
    return copies;
  }
  // A few steps that move the copies away from the identity.
  void train(int steps, double rate = 1e-2) {
    optim::AdamW optimizer(trainable.parameters(), {});
    for (int i = 0; i < steps; ++i) {
      const std::vector<model::Batch> batches = {test::random_batch({9, 4, 7}, static_cast<std::uint64_t>(i) + 1)};
      const StepResult result = train_step(decoder, trainable, optimizer, batches, rates(rate), 1.0);
      ASSERT_TRUE(result.finite);
    }
  }
};

inline std::set<std::string> residual_outputs_of(const model::Decoder& decoder) {
  model::Weights weights = decoder.weights();
  std::set<std::string> names;
  for (const auto& p : model::named_parameters(decoder.config(), weights))
    if (p.role == model::Role::kResidualOutput) names.insert(p.name);
  return names;
}

}  // namespace adept::train
