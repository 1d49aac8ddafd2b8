#include "adept/model/batch.h"

#include <algorithm>

#include "adept/nn/transfer.h"

namespace adept::model {

static_assert(data::kIgnoreIndex == nn::kIgnoreIndex);

namespace {

template <typename T>
at::Tensor as_tensor(const std::vector<T>& values, std::int64_t rows, std::int64_t cols, at::Device device = at::kCPU) {
  at::Tensor tensor = nn::empty_on_host({rows, cols}, c10::CppTypeToScalarType<T>::value, device);
  std::copy(values.begin(), values.end(), tensor.data_ptr<T>());
  return tensor;
}

}  // namespace

Batch to_batch(const data::TokenBatch& batch, at::Device device) {
  Batch result = {.input_ids = {as_tensor(batch.input_ids, batch.rows, batch.cols, device), device},
                  .targets = {as_tensor(batch.targets, batch.rows, batch.cols, device), device},
                  .num_targets = batch.num_targets};
  if (!batch.document_starts.empty()) {
    result.document_starts = as_tensor(batch.document_starts, batch.rows, batch.cols);
    if (!device.is_cpu()) result.document_bounds = nn::document_bounds(result.document_starts, device);
  }
  const auto is_padded = [&](std::int64_t length) { return length < batch.cols; };
  if (std::any_of(batch.lengths.begin(), batch.lengths.end(), is_padded))
    result.lengths = as_tensor(batch.lengths, batch.rows, 1).squeeze(1);
  return result;
}

}  // namespace adept::model
