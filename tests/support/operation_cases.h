// Every operation of adept/nn beside its plain reference, on shapes chosen to be awkward: one table for comparing
// values and gradients, for finite differences, and for timing (adept_ops_bench --cases).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <ostream>
#include <string>
#include <vector>

namespace adept::test {

using OperationInputs = std::vector<at::Tensor>;
using Operation = std::function<at::Tensor(const OperationInputs&)>;

struct OperationCase {
  std::string name;
  std::function<OperationInputs(at::ScalarType)> inputs;  ///< random, of that type; all of them are differentiable
  Operation fast, reference;
};

inline void PrintTo(const OperationCase& c, std::ostream* stream) { *stream << c.name; }

/// The same cases each time. Seeds ATen's generator.
std::vector<OperationCase> operation_cases();

}  // namespace adept::test
