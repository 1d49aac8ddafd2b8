#include "adept/data/token_dataset.h"

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

std::span<const std::int32_t> TokenDataset::document(std::int64_t i) const {
  const auto at = static_cast<std::size_t>(i);
  const std::int64_t begin = data_->offsets[at];
  return data_->tokens.subspan(static_cast<std::size_t>(begin),
                               static_cast<std::size_t>(data_->offsets[at + 1] - begin));
}

}  // namespace adept::data
