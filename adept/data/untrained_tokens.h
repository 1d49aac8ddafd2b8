// From answers in the text of a conversation to the tokens that are context only. Internal to adept::data.
#pragma once

#include <cstdint>
#include <span>

#include "adept/data/text_encoder.h"
#include "adept/data/text_source.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

/// The tokens of a document that belong to none of its answers; nothing if it has no answers. `ids` are those of its
/// text.
///
/// A token belongs to an answer if the ids of the text up to the answer's start lack it, and those of the text up to
/// its end have it: ids are compared from the first one on. A token with bytes on both sides of a start is in the
/// answer; with bytes on both sides of an end, it is not.
Untrained untrained_tokens(const TextEncoder& encoder, const Document& document, std::span<const std::int32_t> ids);

}  // namespace adept::data
