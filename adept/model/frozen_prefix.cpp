#include "adept/model/frozen_prefix.h"

#include <ATen/core/grad_mode.h>

#include "adept/core/error.h"

namespace adept::model {

at::Tensor FrozenPrefix::hidden(const nn::TokenIds& ids, std::int64_t end, const Context& context) const {
  const at::NoGradGuard no_grad;
  const std::int64_t cached = cache_ == nullptr ? 0 : cache_->num_layers();
  if (cache_ == nullptr || end < cached || decoder_->weights().embed_tokens.trains_any_of(ids))
    return decoder_->layers(decoder_->embed(ids), 0, end, context);
  ADEPT_CHECK(context.cache == nullptr && context.text_length == 0,
              "activations of tokens that follow others, or that others follow, are not cached");
  const auto compute = [&](const nn::TokenIds& tokens, const Context& of_tokens) {
    return decoder_->layers(decoder_->embed(tokens), 0, cached, of_tokens);
  };
  const at::Tensor h = cache_->get(ids, context, keeps_new_, compute);
  return decoder_->layers(h, cached, end, context);
}

}  // namespace adept::model
