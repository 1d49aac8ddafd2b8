// Probes of tiny models on padded batches, and their scores.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "adept/method/beyond/probe.h"
#include "tests/support/tiny_models.h"

namespace adept::method {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Different lengths in each batch, so that rows are padded, and a row with a context that is not scored.
inline std::vector<model::Batch> padded_batches(std::int32_t pad_id = 0) {
  auto with_context = test::random_sequences({9, 12}, 3);
  with_context[1].first_target = 5;
  return {test::random_batch({9, 4, 7}, 1, pad_id), test::random_batch({2, 13}, 2, pad_id),
          model::to_batch(data::make_batch(with_context, pad_id), at::kCPU), test::random_batch({5}, 4, pad_id)};
}

inline std::vector<data::Sequence> rows_of_padded_batches() {
  std::vector<data::Sequence> rows;
  for (const auto& part : {test::random_sequences({9, 4, 7}, 1), test::random_sequences({2, 13}, 2),
                           test::random_sequences({9, 12}, 3), test::random_sequences({5}, 4)})
    rows.insert(rows.end(), part.begin(), part.end());
  rows[6].first_target = 5;
  return rows;
}

inline std::vector<ProbeBatch> of_one_source(const std::vector<model::Batch>& batches) {
  std::vector<ProbeBatch> result;
  for (const model::Batch& batch : batches) result.push_back({.batch = batch, .source = 0});
  return result;
}

inline Importance probe_with(const std::string& method, const model::Decoder& decoder,
                             const std::vector<model::Batch>& batches) {
  const std::vector<std::vector<ProbeBatch>> parts = {of_one_source(batches)};
  return probe(decoder, parts, {.methods = {method}, .num_lowest = 2}, Progress::silent()).at(0);
}

inline void expect_equal(const Importance& a, const Importance& b) {
  EXPECT_EQ(a.method, b.method);
  EXPECT_EQ(a.model, b.model);
  EXPECT_EQ(a.baseline_loss, b.baseline_loss);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.sequences, b.sequences);
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    SCOPED_TRACE(l);
    EXPECT_EQ(a.layers[l].index, b.layers[l].index);
    EXPECT_EQ(a.layers[l].score, b.layers[l].score);
    EXPECT_EQ(a.layers[l].normalized, b.layers[l].normalized);
    EXPECT_EQ(a.layers[l].rank, b.layers[l].rank);
    EXPECT_EQ(a.layers[l].ci95, b.layers[l].ci95);
    EXPECT_EQ(a.layers[l].lowest_share, b.layers[l].lowest_share);
  }
  EXPECT_EQ(a.stability.num_lowest, b.stability.num_lowest);
  EXPECT_EQ(a.stability.num_resamples, b.stability.num_resamples);
  EXPECT_EQ(a.stability.same_set_share, b.stability.same_set_share);
  EXPECT_EQ(a.stability.degrees_of_freedom, b.stability.degrees_of_freedom);
  EXPECT_EQ(a.stability.covariance, b.stability.covariance);
  ASSERT_EQ(a.separation.has_value(), b.separation.has_value());
  if (!a.separation) return;
  EXPECT_EQ(a.separation->reached, b.separation->reached);
  EXPECT_EQ(a.separation->required_share, b.separation->required_share);
  EXPECT_EQ(a.separation->looks, b.separation->looks);
}

inline std::vector<LayerImportance> layers_with_scores(const std::vector<double>& scores) {
  std::vector<LayerImportance> layers;
  for (const double score : scores) layers.push_back({.index = static_cast<int>(layers.size()), .score = score});
  return layers;
}

}  // namespace adept::method
