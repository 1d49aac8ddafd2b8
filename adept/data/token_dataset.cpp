#include "adept/data/token_dataset.h"

#include <algorithm>
#include <utility>

#include "adept/core/error.h"
#include "adept/data/token_file.h"

namespace adept::data {

TokenDataset::TokenDataset(DatasetInfo info, std::span<const std::vector<std::int32_t>> documents,
                           std::span<const std::int64_t> document_bytes) {
  ADEPT_CHECK(documents.size() == document_bytes.size(), "{} documents, {} byte lengths", documents.size(),
              document_bytes.size());
  MemorySink sink;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    ADEPT_CHECK(!documents[i].empty(), "document {} of \"{}\" is empty", i, info.name);
    for (const std::int32_t id : documents[i])
      if (id < 0 || id >= info.vocab_size)
        throw DataError("source \"{}\", document {}: the id {} is outside the vocabulary of {} ids.", info.name, i, id,
                        info.vocab_size);
    sink.add(documents[i], document_bytes[i]);
  }
  *this = sink.finish(std::move(info));
}

std::int64_t TokenDataset::document_tokens(std::int64_t i) const {
  const auto at = static_cast<std::size_t>(i);
  return data_->offsets[at + 1] - data_->offsets[at];
}

std::int32_t TokenDataset::last_token(std::int64_t i) const {
  return data_->tokens[static_cast<std::size_t>(data_->offsets[static_cast<std::size_t>(i) + 1] - 1)];
}

void TokenDataset::read(std::int64_t i, std::int64_t begin, std::span<std::int32_t> out) const {
  ADEPT_CHECK(begin >= 0 && std::ssize(out) <= document_tokens(i) - begin, "tokens {} + {} of {} of document {}", begin,
              out.size(), document_tokens(i), i);
  const auto ids =
      data_->tokens.subspan(static_cast<std::size_t>(data_->offsets[static_cast<std::size_t>(i)] + begin), out.size());
  std::copy(ids.begin(), ids.end(), out.begin());
}

}  // namespace adept::data
