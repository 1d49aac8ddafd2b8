// Learning rates of whole parameters.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/optim/adamw.h"

namespace adept::test {

/// One rate for the whole of each parameter, by name.
inline optim::ParameterRates whole_rates(const std::vector<optim::Parameter>& parameters,
                                         const std::map<std::string, double>& rates) {
  optim::ParameterRates result;
  for (const optim::Parameter& p : parameters)
    if (const auto rate = rates.find(p.name); rate != rates.end())
      result[p.name] = {{.dim = 0, .begin = 0, .end = p.shape()[0], .rate = rate->second}};
  ADEPT_CHECK(result.size() == rates.size(), "a learning rate for a parameter that does not train");
  return result;
}

}  // namespace adept::test
