#include <algorithm>
#include <array>

#include "adept/model/architectures/architecture.h"

namespace adept::model {

// Named one by one: a registration at start-up would be dropped by the linker of a static library.
extern const Architecture kGemma2;
extern const Architecture kGemma3;
extern const Architecture kGranite;
extern const Architecture kLlama;
extern const Architecture kMistral;
extern const Architecture kOlmo2;
extern const Architecture kPhi3;
extern const Architecture kQwen2;
extern const Architecture kQwen3;

std::span<const Architecture* const> known_architectures() {
  static constexpr std::array kAll = {&kLlama, &kMistral, &kQwen2,   &kQwen3, &kGemma3,
                                      &kOlmo2, &kPhi3,    &kGranite, &kGemma2};
  return kAll;
}

const Architecture* find_architecture(std::string_view model_type) {
  const auto all = known_architectures();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Architecture* a) { return a->model_type == model_type; });
  return found == all.end() ? nullptr : *found;
}

}  // namespace adept::model
