// How held-out text is scored, as the configuration says it.
#pragma once

#include <cstdint>

namespace adept::eval {

struct EvalOptions {
  std::int64_t batch_size = 8;        ///< sequences
  bool packed = false;                ///< score packed sequences, as training sees the data, instead of documents alone
  std::int64_t stride = 0;            ///< tokens between the windows of a long document; 0 = the length of a sequence
  std::int64_t max_tokens = 65536;    ///< a sample of each set; 0 = all
  std::int64_t copies_tokens = 4096;  ///< a sample on which the loss without each copy is measured; 0 = not measured
};

}  // namespace adept::eval
