#include "adept/data/contamination.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <exception>
#include <limits>
#include <mutex>
#include <numeric>
#include <thread>

#include "adept/core/error.h"
#include "adept/core/signals.h"

namespace adept::data {
namespace {

constexpr std::int64_t kReadTokens = std::int64_t{1} << 20;  // of a long document at a time
constexpr std::size_t kExampleTokens = 64;
constexpr std::int64_t kNoDocument = std::numeric_limits<std::int64_t>::max();

/// Hash of the last n ids: a polynomial modulo 2^64, mixed.
class RollingHash {
 public:
  RollingHash() {
    for (std::int64_t i = 0; i < kContaminationTokens; ++i) leaving_ *= kFactor;
  }
  /// `leaving`: the id n positions before; 0 for the first n.
  void add(std::int32_t id, std::int32_t leaving) { sum_ = sum_ * kFactor + weight(id) - leaving_ * weight(leaving); }
  std::uint64_t value() const {
    const std::uint64_t mixed = (sum_ ^ (sum_ >> 32)) * 0x9E3779B97F4A7C15ULL;
    return mixed ^ (mixed >> 29);
  }

 private:
  static constexpr std::uint64_t kFactor = 0x5851F42D4C957F2DULL;
  static std::uint64_t weight(std::int32_t id) { return static_cast<std::uint64_t>(id) * 0xD6E8FEB86659FD93ULL; }

  std::uint64_t leaving_ = 1;
  std::uint64_t sum_ = 0;
};

/// Calls on_ngram(hash, begin) for each n-gram of the ids, which begins at ids[begin].
template <typename OnNgram>
void for_each_ngram(std::span<const std::int32_t> ids, const OnNgram& on_ngram) {
  constexpr auto n = static_cast<std::size_t>(kContaminationTokens);
  RollingHash hash;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    hash.add(ids[i], i >= n ? ids[i - n] : 0);
    if (i + 1 >= n) on_ngram(hash.value(), i + 1 - n);
  }
}

/// The n-grams of all held-out text, and the first training document that has each.
class HeldOutNgrams {
 public:
  explicit HeldOutNgrams(std::span<const TokenDataset> datasets) {
    for (const TokenDataset& dataset : datasets)
      for (std::int64_t i = 0; i < dataset.num_documents(); ++i) {
        throw_if_interrupted();
        const std::size_t begin = ids_.size();
        ids_.resize(begin + static_cast<std::size_t>(dataset.document_tokens(i)));
        dataset.read(i, 0, std::span(ids_).subspan(begin));
        documents_.push_back(begin);
      }
    documents_.push_back(ids_.size());
    for_each([&](std::uint64_t hash, std::size_t at) { places_.push_back({hash, at}); });
    std::ranges::sort(places_);
    keep_different();
    filter_.resize(std::bit_ceil(std::max<std::size_t>(1, places_.size() / 4)));  // 16 bits per n-gram and more
    for (const auto& [hash, at] : places_) filter_[word(hash)] |= bits(hash);
    first_ = std::vector<std::atomic<std::int64_t>>(places_.size());
    for (auto& document : first_) document.store(kNoDocument, std::memory_order_relaxed);
  }

  std::size_t num_documents() const { return documents_.size() - 1; }
  std::span<const std::int32_t> document(std::size_t i) const {
    return std::span(ids_).subspan(documents_[i], documents_[i + 1] - documents_[i]);
  }

  /// Notes that a training document has this n-gram. Returns whether it is one of the held-out text.
  bool meet(std::uint64_t hash, std::span<const std::int32_t> ngram, std::int64_t train_document) {
    if ((filter_[word(hash)] & bits(hash)) != bits(hash)) return false;
    const std::size_t place = find(hash, ngram);
    if (place == places_.size()) return false;
    std::int64_t first = first_[place].load(std::memory_order_relaxed);
    while (train_document < first && !first_[place].compare_exchange_weak(first, train_document)) {
    }
    return true;
  }

  /// The first training document that has each n-gram of a held-out document; kNoDocument if none has it.
  std::vector<std::int64_t> first_documents(std::size_t i) const {
    std::vector<std::int64_t> first;
    for_each_ngram(document(i), [&](std::uint64_t hash, std::size_t begin) {
      const std::size_t place = find(hash, ngram_at(documents_[i] + begin));
      first.push_back(first_[place].load(std::memory_order_relaxed));
    });
    return first;
  }

 private:
  struct Place {
    std::uint64_t hash = 0;
    std::size_t at = 0;  // in ids_

    auto operator<=>(const Place&) const = default;
  };

  template <typename OnNgram>
  void for_each(const OnNgram& on_ngram) const {
    for (std::size_t i = 0; i < num_documents(); ++i)
      for_each_ngram(document(i),
                     [&](std::uint64_t hash, std::size_t begin) { on_ngram(hash, documents_[i] + begin); });
  }
  std::span<const std::int32_t> ngram_at(std::size_t at) const {
    return std::span(ids_).subspan(at, kContaminationTokens);
  }
  // Of equal n-grams, the first place.
  void keep_different() {
    std::size_t kept = 0, group = 0;  // of the places with the hash of the last one that was kept
    for (const Place& place : places_) {
      if (kept > 0 && places_[kept - 1].hash != place.hash) group = kept;
      const auto is_equal = [&](const Place& other) {
        return std::ranges::equal(ngram_at(other.at), ngram_at(place.at));
      };
      if (std::none_of(places_.begin() + static_cast<std::ptrdiff_t>(group),
                       places_.begin() + static_cast<std::ptrdiff_t>(kept), is_equal))
        places_[kept++] = place;
    }
    places_.resize(kept);
  }
  // places_.size() if there is none.
  std::size_t find(std::uint64_t hash, std::span<const std::int32_t> ngram) const {
    auto place = std::ranges::lower_bound(places_, hash, {}, &Place::hash);
    while (place != places_.end() && place->hash == hash && !std::ranges::equal(ngram_at(place->at), ngram)) ++place;
    if (place == places_.end() || place->hash != hash) return places_.size();
    return static_cast<std::size_t>(place - places_.begin());
  }
  // A Bloom filter of two bits in one word.
  std::size_t word(std::uint64_t hash) const { return (hash >> 12) & (filter_.size() - 1); }
  static std::uint64_t bits(std::uint64_t hash) {
    return (std::uint64_t{1} << (hash & 63)) | (std::uint64_t{1} << ((hash >> 6) & 63));
  }

  std::vector<std::int32_t> ids_;
  std::vector<std::size_t> documents_;  // where each starts in ids_, and their end
  std::vector<Place> places_;           // of every different n-gram, by hash
  std::vector<std::uint64_t> filter_;
  std::vector<std::atomic<std::int64_t>> first_;  // training documents, for each place
};

/// The training text as one list of documents.
class TrainingDocuments {
 public:
  explicit TrainingDocuments(std::span<const TokenDataset> datasets) : datasets_(datasets), begins_{0} {
    for (const TokenDataset& dataset : datasets) begins_.push_back(begins_.back() + dataset.num_documents());
  }
  std::int64_t size() const { return begins_.back(); }
  struct Document {
    std::size_t dataset = 0;
    std::int64_t index = 0;
  };
  Document operator[](std::int64_t document) const {
    const auto after = std::ranges::upper_bound(begins_, document);
    const auto dataset = static_cast<std::size_t>(after - begins_.begin()) - 1;
    return {dataset, document - begins_[dataset]};
  }

  /// Whether a document has an n-gram of the held-out text; notes all of them.
  bool meet(std::int64_t document, HeldOutNgrams& held_out, std::vector<std::int32_t>& buffer) const {
    const auto [d, index] = (*this)[document];
    const std::int64_t size = datasets_[d].document_tokens(index);
    bool is_met = false;
    for (std::int64_t begin = 0; begin + kContaminationTokens <= size; begin += kReadTokens) {
      buffer.resize(static_cast<std::size_t>(std::min(size - begin, kReadTokens + kContaminationTokens - 1)));
      datasets_[d].read(index, begin, buffer);
      for_each_ngram(buffer, [&](std::uint64_t hash, std::size_t at) {
        is_met |= held_out.meet(hash, std::span(buffer).subspan(at, kContaminationTokens), document);
      });
    }
    return is_met;
  }
  std::int64_t tokens(std::int64_t document) const {
    const auto [d, index] = (*this)[document];
    return datasets_[d].document_tokens(index);
  }

 private:
  std::span<const TokenDataset> datasets_;
  std::vector<std::int64_t> begins_;
};

/// Gives out the documents in ranges to threads, of which the caller is one, and collects those that are met.
class Search {
 public:
  Search(const TrainingDocuments& documents, HeldOutNgrams& held_out, Progress& progress)
      : documents_(documents), held_out_(held_out), progress_(progress) {}

  std::vector<std::int64_t> run(int num_threads) {
    std::vector<std::jthread> threads;
    try {
      while (std::ssize(threads) + 1 < num_threads) threads.emplace_back([this] { work(/*shows=*/false); });
    } catch (const std::system_error&) {  // fewer do it
    }
    work(/*shows=*/true);
    threads.clear();
    if (error_) std::rethrow_exception(error_);
    std::ranges::sort(met_);
    return std::move(met_);
  }

 private:
  void work(bool shows) {
    try {
      constexpr std::int64_t kDocuments = 64;
      std::vector<std::int32_t> buffer;
      std::vector<std::int64_t> met;
      while (!stop_) {
        const std::int64_t begin = next_.fetch_add(kDocuments);
        if (begin >= documents_.size()) break;
        for (std::int64_t i = begin; i < std::min(begin + kDocuments, documents_.size()); ++i) {
          throw_if_interrupted();
          if (documents_.meet(i, held_out_, buffer)) met.push_back(i);
          num_tokens_ += documents_.tokens(i);
        }
        if (shows) progress_.update(num_tokens_, num_tokens_);
      }
      const std::lock_guard lock(mutex_);
      met_.insert(met_.end(), met.begin(), met.end());
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
      stop_ = true;
    }
  }

  const TrainingDocuments& documents_;
  HeldOutNgrams& held_out_;
  Progress& progress_;
  std::atomic<std::int64_t> next_ = 0, num_tokens_ = 0;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::vector<std::int64_t> met_;
  std::exception_ptr error_;
};

// Adds a held-out document to the counts of its dataset.
void add_document(std::int64_t index, std::span<const std::int32_t> ids, std::span<const std::int64_t> first,
                  const TrainingDocuments& documents, std::span<const TokenDataset> train, Contamination& counts) {
  const auto is_shared = [](std::int64_t document) { return document != kNoDocument; };
  const std::int64_t shared = std::ranges::count_if(first, is_shared);
  ++counts.documents;
  counts.ngrams += std::ssize(first);
  counts.shared_ngrams += shared;
  if (shared == 0) return;
  ++counts.contaminated_documents;
  if (counts.examples.size() == kMaxContaminationExamples) return;
  const auto begin = std::ranges::find_if(first, is_shared);
  const auto end = std::find_if_not(begin, first.end(), is_shared);
  const auto size = static_cast<std::size_t>(end - begin + kContaminationTokens - 1);
  const auto run = ids.subspan(static_cast<std::size_t>(begin - first.begin()), std::min(size, kExampleTokens));
  const auto [dataset, document] = documents[*begin];
  counts.examples.push_back({.document = index,
                             .ids = {run.begin(), run.end()},
                             .train_name = train[dataset].name(),
                             .train_document = document});
}

}  // namespace

ContaminationReport find_contamination(std::span<const TokenDataset> train, std::span<const TokenDataset> held_out,
                                       int num_threads, Progress& progress) {
  HeldOutNgrams ngrams(held_out);
  const TrainingDocuments documents(train);
  std::int64_t num_tokens = 0;
  for (const TokenDataset& dataset : train) num_tokens += dataset.num_tokens();
  progress.set_total(num_tokens);
  ContaminationReport report;
  report.train.resize(train.size());
  for (const std::int64_t document : Search(documents, ngrams, progress).run(num_threads)) {
    const auto [dataset, index] = documents[document];
    report.train[dataset].push_back(index);
  }
  std::size_t document = 0;
  for (const TokenDataset& dataset : held_out) {
    Contamination& counts = report.held_out.emplace_back();
    counts.name = dataset.name();
    for (std::int64_t i = 0; i < dataset.num_documents(); ++i, ++document)
      add_document(i, ngrams.document(document), ngrams.first_documents(document), documents, train, counts);
  }
  progress.finish();
  return report;
}

}  // namespace adept::data
