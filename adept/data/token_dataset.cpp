#include "adept/data/token_dataset.h"

#include "adept/core/error.h"
#include "adept/data/token_sink.h"

namespace adept::data {

bool is_valid(const Untrained& untrained, std::int64_t tokens, std::int64_t bytes) {
  std::int64_t end = -1;
  for (const TokenSpan& span : untrained.spans) {
    if (span.begin <= end || span.end <= span.begin) return false;
    end = span.end;
  }
  return end <= tokens && untrained.bytes >= 0 && untrained.bytes <= (untrained.empty() ? 0 : bytes);
}

TokenDataset::TokenDataset(DatasetInfo info, std::string fingerprint, std::shared_ptr<const TokenStorage> storage)
    : data_(std::make_shared<const Data>(Data{std::move(info), std::move(fingerprint), std::move(storage)})) {}

TokenDataset::TokenDataset(DatasetInfo info, std::span<const std::vector<std::int32_t>> documents,
                           std::span<const std::int64_t> document_bytes, std::span<const Untrained> untrained) {
  ADEPT_CHECK(documents.size() == document_bytes.size(), "{} documents, {} byte lengths", documents.size(),
              document_bytes.size());
  ADEPT_CHECK(untrained.empty() || untrained.size() == documents.size(), "{} documents, untrained tokens of {}",
              documents.size(), untrained.size());
  MemorySink sink;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    ADEPT_CHECK(!documents[i].empty(), "document {} of \"{}\" is empty", i, info.name);
    for (const std::int32_t id : documents[i])
      if (id < 0 || id >= info.vocab_size)
        throw DataError("source \"{}\", document {}: the id {} is outside the vocabulary of {} ids.", info.name, i, id,
                        info.vocab_size);
    sink.add(documents[i], document_bytes[i], untrained.empty() ? Untrained() : untrained[i]);
  }
  *this = sink.finish(std::move(info));
}

TokenDataset TokenDataset::renamed(const std::string& name) const {
  DatasetInfo info = data_->info;
  info.name = name;
  return {std::move(info), data_->fingerprint, data_->storage};
}

void TokenDataset::read(std::int64_t i, std::int64_t begin, std::span<std::int32_t> out) const {
  ADEPT_CHECK(begin >= 0 && std::ssize(out) <= document_tokens(i) - begin, "tokens {} + {} of {} of document {}", begin,
              out.size(), document_tokens(i), i);
  if (!out.empty()) data_->storage->read(i, begin, out);
}

}  // namespace adept::data
