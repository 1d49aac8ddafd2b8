#include "adept/data/sequences.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/random.h"
#include "data_test_util.h"

namespace adept::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

std::int64_t draw(std::uint64_t counter, std::int64_t low, std::int64_t high) {
  return low + static_cast<std::int64_t>(random_uniform(7, RandomStream::kSampling, counter) *
                                         static_cast<double>(high - low + 1));
}

// Of all sequences together; more than those of the text where windows overlap.
std::int64_t num_input_tokens(const SequenceSet& set) {
  const std::vector<std::int64_t> lengths = set.lengths();
  return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
}

TEST(Windows, OfAShortDocumentAreTheDocument) {
  const auto set = windows(counting_dataset("a", {3, 2}), {.seq_len = 5});
  ASSERT_EQ(set.size(), 2);
  EXPECT_EQ(set[0], (Sequence{.tokens = {1, 2, 3}, .first_target = 1}));
  EXPECT_EQ(set[1], (Sequence{.tokens = {4, 5}, .first_target = 1}));
  EXPECT_EQ(set.counts().targets, 3);
  EXPECT_EQ(set.counts().documents, 2);
  EXPECT_EQ(set.counts().bytes, 15);
}

TEST(Windows, WithoutOverlapLeaveTheirFirstTokenUnpredicted) {
  const auto set = windows(counting_dataset("a", {8}), {.seq_len = 3});
  ASSERT_EQ(set.size(), 3);
  EXPECT_EQ(set[0], (Sequence{.tokens = {1, 2, 3}, .first_target = 1}));
  EXPECT_EQ(set[1], (Sequence{.tokens = {4, 5, 6}, .first_target = 1}));
  EXPECT_EQ(set[2], (Sequence{.tokens = {7, 8}, .first_target = 1}));
  EXPECT_EQ(set.counts().no_context, 3);
}

TEST(Windows, WithOverlapPredictOnlyWhatIsNew) {
  const auto set = windows(counting_dataset("a", {7}), {.seq_len = 4, .stride = 2});
  ASSERT_EQ(set.size(), 3);
  EXPECT_EQ(set[0], (Sequence{.tokens = {1, 2, 3, 4}, .first_target = 1}));
  EXPECT_EQ(set[1], (Sequence{.tokens = {3, 4, 5, 6}, .first_target = 2}));
  EXPECT_EQ(set[2], (Sequence{.tokens = {5, 6, 7}, .first_target = 2}));
}

TEST(Windows, CountsWhatHasNothingToPredict) {
  const auto set = windows(counting_dataset("a", {1, 4, 1}), {.seq_len = 3});
  ASSERT_EQ(set.size(), 1);
  EXPECT_EQ(set.counts().short_documents, 2);
  EXPECT_EQ(set.counts().too_short, 3) << "two documents of one token, and the fourth token of the other";
  EXPECT_EQ(set.counts().documents, 1);
}

// The loop of "Perplexity of fixed-length models" in the documentation of transformers, token by token.
std::map<std::int32_t, Ids> reference_contexts(std::int64_t n, std::int64_t seq_len, std::int64_t stride) {
  std::map<std::int32_t, Ids> contexts;
  std::int64_t prev_end = 0;
  for (std::int64_t begin = 0; begin < n; begin += stride) {
    const std::int64_t end = std::min(begin + seq_len, n);
    const std::int64_t target_length = end - prev_end;
    for (std::int64_t t = std::max(begin + 1, end - target_length); t < end; ++t) {
      Ids context;
      for (std::int64_t c = begin; c < t; ++c) context.push_back(static_cast<std::int32_t>(c + 1));
      EXPECT_TRUE(contexts.emplace(static_cast<std::int32_t>(t + 1), context).second);
    }
    prev_end = end;
    if (end == n) break;
  }
  return contexts;
}

TEST(Windows, ScoreTheSameTokensInTheSameContextAsHuggingFacesRecipe) {
  for (std::int64_t n = 1; n <= 14; ++n)
    for (std::int64_t seq_len = 2; seq_len <= 6; ++seq_len)
      for (std::int64_t stride = 1; stride <= seq_len; ++stride) {
        const auto set = windows(counting_dataset("a", {n}), {.seq_len = seq_len, .stride = stride});
        std::map<std::int32_t, Ids> contexts;
        for (const Sequence& sequence : set.to_vector())
          for (auto t = static_cast<std::size_t>(sequence.first_target); t < sequence.tokens.size(); ++t)
            EXPECT_TRUE(contexts
                            .emplace(sequence.tokens[t],
                                     Ids(sequence.tokens.begin(), sequence.tokens.begin() + static_cast<long>(t)))
                            .second)
                << "scored twice";
        EXPECT_EQ(contexts, reference_contexts(n, seq_len, stride)) << n << " " << seq_len << " " << stride;
        const auto& c = set.counts();
        EXPECT_EQ(c.targets, static_cast<std::int64_t>(contexts.size()));
        EXPECT_EQ(c.targets + c.no_context + c.too_short, n);
        EXPECT_EQ(c.beyond_limit, 0);
      }
}

// The rule of SequenceSet, said in another way: all sequences by rank, each but the first cut to what is left.
std::vector<Sequence> reference_sample(const SequenceSet& all, std::int64_t max_tokens) {
  std::vector<std::pair<std::uint64_t, std::int64_t>> by_rank;
  for (std::int64_t i = 0; i < all.size(); ++i)
    by_rank.emplace_back(random_bits(0, RandomStream::kTextSample, static_cast<std::uint64_t>(i)), i);
  std::sort(by_rank.begin(), by_rank.end());
  std::map<std::int64_t, Sequence> taken;
  std::int64_t left = max_tokens;
  for (const auto& [rank, i] : by_rank) {
    if (left <= 0) break;
    Sequence sequence = all[i];
    const auto length = static_cast<std::int64_t>(sequence.tokens.size());
    if (left < max_tokens && length > left) sequence.tokens.resize(static_cast<std::size_t>(left));
    std::erase_if(sequence.document_starts, [&](std::int32_t start) { return start >= std::ssize(sequence.tokens); });
    if (sequence.num_targets() > 0) taken[i] = sequence;
    left -= length;
  }
  std::vector<Sequence> sequences;
  for (const auto& [i, sequence] : taken) sequences.push_back(sequence);
  return sequences;
}

std::vector<std::int64_t> drawn_lengths(int count, std::uint64_t seed) {
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < count; ++i) lengths.push_back(draw(1000 * seed + static_cast<std::uint64_t>(i), 1, 30));
  return lengths;
}

TEST(Sample, TakesSequencesByRankUpToTheLimit) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto dataset = counting_dataset("a", drawn_lengths(40, seed));
    const std::int64_t stride = draw(seed, 1, 8);
    const auto all = windows(dataset, {.seq_len = 8, .stride = stride});
    const bool mask = seed % 2 == 0;
    const auto all_packed = packed(dataset, {.seq_len = 8, .eos = 0, .document_mask = mask});
    for (const std::int64_t limit : {1, 2, 9, 50, 51, 52, 53, 400, 100'000}) {
      const auto set = windows(dataset, {.seq_len = 8, .stride = stride, .max_tokens = limit});
      EXPECT_EQ(set.to_vector(), reference_sample(all, limit)) << seed << " " << stride << " " << limit;
      EXPECT_FALSE(set.empty()) << "never nothing at all";
      EXPECT_EQ(packed(dataset, {.seq_len = 8, .eos = 0, .document_mask = mask, .max_tokens = limit}).to_vector(),
                reference_sample(all_packed, limit))
          << seed << " " << limit;
    }
  }
}

TEST(Sample, CountsWhatItCovers) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<std::int64_t> lengths = drawn_lengths(40, seed);
    const auto dataset = counting_dataset("a", lengths);
    std::vector<std::int32_t> first_ids = {1};
    for (const std::int64_t length : lengths) first_ids.push_back(first_ids.back() + static_cast<std::int32_t>(length));
    const std::int64_t stride = draw(seed, 1, 8);
    for (const std::int64_t limit : {1, 50, 53, 400, 100'000}) {
      const auto set = windows(dataset, {.seq_len = 8, .stride = stride, .max_tokens = limit});
      std::set<std::int32_t> own;  // tokens that are predicted, or begin a document's part
      for (const Sequence& sequence : set.to_vector()) {
        const bool has_context =
            stride < 8 && !std::binary_search(first_ids.begin(), first_ids.end(), sequence.tokens.front());
        const auto first = static_cast<std::ptrdiff_t>(has_context ? sequence.first_target : 0);
        own.insert(sequence.tokens.begin() + first, sequence.tokens.end());
      }
      std::int64_t lone = 0;  // a last token that is no window belongs to the window before it
      double bytes = 0;
      std::int64_t documents = 0;
      for (std::size_t d = 0; d < lengths.size(); ++d) {
        const auto begin = first_ids[d];
        const auto end = begin + static_cast<std::int32_t>(lengths[d]);
        auto covered = std::distance(own.lower_bound(begin), own.lower_bound(end));
        const bool has_lone = stride == 8 && lengths[d] > 1 && lengths[d] % 8 == 1 && own.contains(end - 2);
        covered += has_lone ? 1 : 0;
        lone += has_lone ? 1 : 0;
        documents += covered > 0 ? 1 : 0;
        bytes += 3.0 * static_cast<double>(covered);
      }
      const SequenceCounts& c = set.counts();
      EXPECT_EQ(c.covered, std::ssize(own) + lone) << seed << " " << stride << " " << limit;
      EXPECT_EQ(c.documents, documents);
      EXPECT_EQ(c.all_documents, 40);
      EXPECT_EQ(c.bytes, std::llround(bytes));
      EXPECT_EQ(c.tokens, c.targets + c.no_context + c.too_short + c.beyond_limit);
      EXPECT_EQ(c.size().is_sample, limit < 100'000);
    }
  }
}

// Without overlap the limit is met to the token, but for a rest that has nothing to predict.
TEST(Sample, FillsTheLimit) {
  const auto dataset = counting_dataset("a", std::vector<std::int64_t>(100, 16));
  EXPECT_EQ(num_input_tokens(windows(dataset, {.seq_len = 8, .max_tokens = 100})), 100);
  EXPECT_EQ(num_input_tokens(windows(dataset, {.seq_len = 8, .max_tokens = 97})), 96);
  EXPECT_EQ(num_input_tokens(packed(dataset, {.seq_len = 8, .eos = 0, .max_tokens = 100})), 100);
}

TEST(Sample, OfASortedTextOrOfOneLongDocumentIsNotItsStart) {
  for (const auto& lengths : {std::vector<std::int64_t>(10'000, 10), std::vector<std::int64_t>{100'000}})
    for (const bool joined : {false, true}) {
      const auto dataset = counting_dataset("a", lengths);
      const auto set = joined ? packed(dataset, {.seq_len = 10, .eos = 0, .max_tokens = 4000})
                              : windows(dataset, {.seq_len = 10, .max_tokens = 4000});
      std::vector<std::int64_t> tokens_of_tenth(10);
      for (const Sequence& sequence : set.to_vector())
        for (const std::int32_t id : sequence.tokens)
          if (id > 0) ++tokens_of_tenth.at(static_cast<std::size_t>(id - 1) / 10'000);
      // 40 of 400 sequences are expected, with a standard deviation of 6.
      for (const std::int64_t tokens : tokens_of_tenth) EXPECT_NEAR(static_cast<double>(tokens), 400, 200) << joined;
    }
}

TEST(Sample, OfMoreTokensHoldsThatOfFewer) {
  const auto dataset = counting_dataset("a", std::vector<std::int64_t>(500, 8));
  std::set<Ids> smaller;
  for (const std::int64_t limit : {8, 80, 800, 4000}) {
    std::set<Ids> sample;
    for (const Sequence& s : windows(dataset, {.seq_len = 8, .max_tokens = limit}).to_vector()) sample.insert(s.tokens);
    EXPECT_TRUE(std::includes(sample.begin(), sample.end(), smaller.begin(), smaller.end())) << limit;
    smaller = sample;
  }
}

TEST(SampleSize, IsToldAndSurvivesAFile) {
  const auto dataset = counting_dataset("a", std::vector<std::int64_t>(1000, 10));
  const auto set = windows(dataset, {.seq_len = 10, .max_tokens = 1300});
  EXPECT_EQ(describe(set.counts().size()), "1,300 of 10,000 tokens in 130 of 1,000 documents");
  EXPECT_EQ(sample_size_from_json(to_json(set.counts().size())), set.counts().size());
  EXPECT_EQ(describe(windows(counting_dataset("a", {1, 4, 3}), {.seq_len = 10}).counts().size()),
            "all 7 tokens in 2 documents");
}

TEST(Windows, RefuseAWrongStrideOrLength) {
  const auto dataset = counting_dataset("a", {4});
  EXPECT_THAT(message_of<ConfigError>([&] { windows(dataset, {.seq_len = 4, .stride = 5}); }),
              HasSubstr("stride is 5; expected 1 to 4"));
  EXPECT_THROW(windows(dataset, {.seq_len = 4, .stride = -1}), ConfigError);
  EXPECT_THAT(message_of<ConfigError>([&] { windows(dataset, {.seq_len = 1}); }), HasSubstr("seq_len is 1"));
  EXPECT_THROW(windows(dataset, {.seq_len = 4, .max_tokens = -1}), ConfigError);
}

TEST(Packed, JoinsDocumentsWithEosAndKeepsTheTail) {
  const auto set = packed(counting_dataset("a", {3, 2, 4}), {.seq_len = 5, .eos = 0, .document_mask = false});
  ASSERT_EQ(set.size(), 3);
  EXPECT_THAT(set[0].tokens, ElementsAre(1, 2, 3, 0, 4));
  EXPECT_THAT(set[1].tokens, ElementsAre(5, 0, 6, 7, 8));
  EXPECT_THAT(set[2].tokens, ElementsAre(9, 0));
  EXPECT_EQ(set.counts().tokens, 12);
  EXPECT_EQ(set.counts().targets, 9);
  EXPECT_EQ(set.counts().documents, 3);
  EXPECT_EQ(set.counts().bytes, 27);
}

TEST(Packed, MarksWhereDocumentsStart) {
  const auto set = packed(counting_dataset("a", {3, 2, 4}), {.seq_len = 5, .eos = 0});
  ASSERT_EQ(set.size(), 3);
  EXPECT_EQ(set[0], (Sequence{.tokens = {1, 2, 3, 0, 4}, .document_starts = {4}}));
  EXPECT_EQ(set[1], (Sequence{.tokens = {5, 0, 6, 7, 8}, .document_starts = {2}}));
  EXPECT_EQ(set[2], (Sequence{.tokens = {9, 0}, .document_starts = {}}));
  EXPECT_THAT(document_lengths(set[0]), ElementsAre(4, 1));
  EXPECT_THAT(document_lengths(set[2]), ElementsAre(2));
}

// Each document, cut where sequences end, in windows of its own: the same tokens are predicted.
TEST(Packed, PredictsOfEachPartOfADocumentAllButItsFirstToken) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const auto dataset = counting_dataset("a", drawn_lengths(30, seed));
    const std::int64_t seq_len = draw(seed, 2, 40);
    for (const std::int64_t limit : {0, 37, 200}) {
      const auto set = packed(dataset, {.seq_len = seq_len, .eos = 0, .max_tokens = limit});
      std::int64_t predicted = 0;
      for (const Sequence& sequence : set.to_vector()) {
        std::int64_t of_sequence = 0;
        for (std::size_t t = 1; t < sequence.tokens.size(); ++t) {  // ids count up within a document
          const bool continues = sequence.tokens[t] == 0 || sequence.tokens[t - 1] != 0;
          of_sequence += continues ? 1 : 0;
          EXPECT_EQ(std::count(sequence.document_starts.begin(), sequence.document_starts.end(), t), continues ? 0 : 1);
        }
        EXPECT_EQ(sequence.num_targets(), of_sequence);
        predicted += of_sequence;
      }
      const SequenceCounts& c = set.counts();
      EXPECT_EQ(c.targets, predicted);
      EXPECT_EQ(c.tokens, c.targets + c.no_context + c.too_short + c.beyond_limit);
      EXPECT_EQ(c.beyond_limit > 0, num_input_tokens(set) + c.too_short < c.tokens);
    }
  }
}

TEST(Packed, AddsNoSecondEos) {
  const std::vector<Ids> documents = {{1, 2, 0}, {3}, {0}};
  const std::vector<std::int64_t> bytes = {1, 1, 1};
  const TokenDataset dataset({.name = "a", .vocab_size = 10, .counts = {}}, documents, bytes);
  EXPECT_THAT(packed(dataset, {.seq_len = 100, .eos = 0})[0].tokens, ElementsAre(1, 2, 0, 3, 0, 0));
}

TEST(Packed, TakesTheGivenOrderAndNoEos) {
  const auto dataset = counting_dataset("a", {3, 2, 4});
  const auto set = packed(dataset, {.seq_len = 4, .eos = std::nullopt, .order = std::vector<std::int64_t>{2, 0, 1}});
  ASSERT_EQ(set.size(), 2);
  EXPECT_THAT(set[0].tokens, ElementsAre(6, 7, 8, 9));
  EXPECT_THAT(set[1].tokens, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(set.counts().too_short, 1) << "the token 5 alone has nothing to predict; it is counted";
}

TEST(Packed, ReadsTheSameStreamAtAnyPlace) {
  const auto dataset = counting_dataset("a", {3, 1, 7, 2, 5});
  const PackedStream stream(dataset, 0, {4, 1, 0, 3, 2});
  Ids all(static_cast<std::size_t>(stream.num_tokens()));
  stream.read(0, all);
  EXPECT_THAT(all, ElementsAre(14, 15, 16, 17, 18, 0, 4, 0, 1, 2, 3, 0, 12, 13, 0, 5, 6, 7, 8, 9, 10, 11, 0));
  for (std::size_t begin = 0; begin <= all.size(); ++begin)
    for (std::size_t size = 0; begin + size <= all.size(); ++size) {
      Ids part(size);
      stream.read(static_cast<std::int64_t>(begin), part);
      ASSERT_TRUE(std::equal(part.begin(), part.end(), all.begin() + static_cast<long>(begin))) << begin << " " << size;
    }
  Ids beyond(2);
  EXPECT_THROW(stream.read(static_cast<std::int64_t>(all.size()) - 1, beyond), InternalError);
}

TEST(Packed, RefusesAnEosOutsideTheVocabulary) {
  EXPECT_THAT(message_of<ConfigError>([] { packed(counting_dataset("med", {3}), {.seq_len = 4, .eos = 1'000'000}); }),
              HasSubstr("\"med\""));
}

TEST(Batch, ShiftsTargetsAndMasksPadding) {
  const std::vector<Sequence> sequences = {{.tokens = {5, 6, 7}}, {.tokens = {8, 9, 1, 2}, .first_target = 3}};
  const TokenBatch batch = make_batch(sequences, 4);
  EXPECT_EQ(batch.rows, 2);
  EXPECT_EQ(batch.cols, 4);
  const auto x = kIgnoreIndex;
  EXPECT_THAT(batch.input_ids, ElementsAre(5, 6, 7, 4, 8, 9, 1, 2));
  EXPECT_THAT(batch.targets, ElementsAre(6, 7, x, x, x, x, 2, x));
  EXPECT_THAT(batch.lengths, ElementsAre(3, 4));
  EXPECT_EQ(batch.num_targets, 3);
}

TEST(Batch, KnowsTheDocumentOfEachPositionAndPredictsNoFirstToken) {
  const std::vector<Sequence> sequences = {{.tokens = {5, 6, 7, 8}, .document_starts = {1, 3}},
                                           {.tokens = {8, 9, 1, 2, 3, 4}},
                                           {.tokens = {3, 4, 5}, .first_target = 2, .document_starts = {1}}};
  const TokenBatch batch = make_batch(sequences);
  const auto x = kIgnoreIndex;
  EXPECT_THAT(batch.document_starts, ElementsAre(0, 1, 1, 3, 4, 4,  //
                                                 0, 0, 0, 0, 0, 0,  //
                                                 0, 1, 1, 3, 3, 3));
  EXPECT_THAT(batch.targets, ElementsAre(x, 7, x, x, x, x,  //
                                         9, 1, 2, 3, 4, x,  //
                                         x, 5, x, x, x, x));
  EXPECT_EQ(batch.num_targets, 7);
  EXPECT_EQ(sequences[0].num_targets(), 1);
  EXPECT_EQ(sequences[2].num_targets(), 1);
  EXPECT_TRUE(make_batch(std::span(sequences).subspan(1, 1)).document_starts.empty());
  for (const std::int32_t start : {0, 3})
    EXPECT_THROW(make_batch(std::vector<Sequence>{{.tokens = {3, 4, 5}, .document_starts = {start}}}), InternalError);
}

TEST(Batch, OfNothingIsEmpty) {
  const TokenBatch batch = make_batch({}, 0);
  EXPECT_EQ(batch.rows, 0);
  EXPECT_EQ(batch.num_targets, 0);
}

TEST(Grouping, PutsEverySequenceInOneGroupWithinTheLimits) {
  std::vector<std::int64_t> lengths;
  for (std::uint64_t i = 0; i < 500; ++i) lengths.push_back(draw(i, 2, 300));
  const auto groups = group_into_batches(lengths, 8, 512);
  std::set<std::int64_t> seen;
  std::int64_t padded = 0, previous = 1000;
  for (const auto& group : groups) {
    std::int64_t cols = 0;
    for (const std::int64_t i : group) {
      EXPECT_TRUE(seen.insert(i).second);
      cols = std::max(cols, lengths[static_cast<std::size_t>(i)]);
      EXPECT_LE(lengths[static_cast<std::size_t>(i)], previous);
      previous = lengths[static_cast<std::size_t>(i)];
    }
    EXPECT_LE(group.size(), 8u);
    EXPECT_LE(cols * static_cast<std::int64_t>(group.size()), 512);
    padded += cols * static_cast<std::int64_t>(group.size());
  }
  EXPECT_EQ(seen.size(), lengths.size());
  std::int64_t total = 0;
  for (const std::int64_t length : lengths) total += length;
  EXPECT_LT(static_cast<double>(padded), 1.05 * static_cast<double>(total)) << "little is padded";
}

TEST(Grouping, KeepsTheOrderOfEqualLengthsAndTakesLongSequencesAlone) {
  const std::vector<std::int64_t> lengths = {4, 9, 4, 4};
  EXPECT_THAT(group_into_batches(lengths, 2, 8), ElementsAre(ElementsAre(1), ElementsAre(0, 2), ElementsAre(3)));
  const std::vector<std::int64_t> equal(1000, 4);
  const auto groups = group_into_batches(equal, 1000, 4000);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_TRUE(std::is_sorted(groups[0].begin(), groups[0].end()));
  EXPECT_THROW(group_into_batches(lengths, 0, 8), ConfigError);
  EXPECT_THROW(group_into_batches(lengths, 1, 0), ConfigError);
}

}  // namespace
}  // namespace adept::data
