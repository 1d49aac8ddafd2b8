#include "adept/model/batch.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace adept::model {
namespace {

at::Tensor as_int64(const std::vector<std::int64_t>& values, std::int64_t rows, std::int64_t cols) {
  at::Tensor tensor = at::empty({rows, cols}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.data_ptr<std::int64_t>());
  return tensor;
}

}  // namespace

Batch to_batch(const data::TokenBatch& batch, at::Device device) {
  return {.input_ids = as_int64(batch.input_ids, batch.rows, batch.cols).to(device),
          .targets = as_int64(batch.targets, batch.rows, batch.cols).to(device),
          .num_targets = batch.num_targets};
}

}  // namespace adept::model
