#include "adept/model/activation_cache.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <string>

#include "adept/core/error.h"
#include "adept/model/decoder.h"
#include "adept/model/frozen_prefix.h"
#include "tests/support/temporary_directory.h"
#include "tests/unit/model/random_model.h"

namespace adept::model {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLarge = 1 << 24;

// A cache in a folder of its own, and a decoder that counts how often it is asked.
class ActivationCacheTest : public ::testing::Test {
 protected:
  ActivationCacheTest() : decoder_(test::tiny_config(), test::random_weights(test::tiny_config())) {
    at::manual_seed(3);
    first_ = at::randint(0, 53, {3, 7}, at::kLong);
    second_ = at::randint(0, 53, {3, 7}, at::kLong);
  }

  std::unique_ptr<ActivationCache> open(const std::string& fingerprint = "weights", std::int64_t bytes = kLarge) const {
    return std::make_unique<ActivationCache>(
        path_, bytes, ActivationSource{.fingerprint = fingerprint, .num_layers = 2, .hidden_size = 24});
  }
  at::Tensor expected(const nn::TokenIds& ids, const at::Tensor& starts = {}) const {
    return decoder_.layers(decoder_.embed(ids), 0, 2, {.document_starts = starts});
  }
  at::Tensor get(ActivationCache& cache, const at::Tensor& ids, const at::Tensor& starts = {}, bool keeps_new = true) {
    return cache.get(ids, {.document_starts = starts}, keeps_new,
                     [&](const nn::TokenIds& tokens, const Context& context) {
                       ++computed_;
                       return expected(tokens, context.document_starts);
                     });
  }
  // Gets `ids` and expects the right values; whether they were computed.
  bool computes(ActivationCache& cache, const at::Tensor& ids, const at::Tensor& starts = {}, bool keeps_new = true) {
    computed_ = 0;
    EXPECT_TRUE(get(cache, ids, starts, keeps_new).equal(expected(ids, starts)));
    return computed_ > 0;
  }
  void damage(std::int64_t from_end) const {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-from_end, std::ios::end);
    file.put('\x5a');
  }

  test::TemporaryDirectory dir_;
  fs::path path_ = dir_.path() / "activations";
  Decoder decoder_;
  at::Tensor first_, second_;
  int computed_ = 0;
};

TEST_F(ActivationCacheTest, MayTakeHalfOfTheDiskAtMost) {
  EXPECT_EQ(room_for_activations(path_, 1000), 1000);
  const auto half = static_cast<std::int64_t>(fs::space(dir_.path()).available / 2);
  const std::int64_t room = room_for_activations(path_, std::int64_t{1} << 60);
  EXPECT_NEAR(static_cast<double>(room), static_cast<double>(half), 0.1 * static_cast<double>(half));
  EXPECT_EQ(room_for_activations("/nowhere/at/all", 1000), 1000);
}

TEST_F(ActivationCacheTest, GivesTheSameBitsWhateverTheOrderAndMixtureOfTheRows) {
  const auto cache = open();
  EXPECT_TRUE(computes(*cache, first_));
  EXPECT_TRUE(computes(*cache, second_));
  EXPECT_FALSE(computes(*cache, first_));
  EXPECT_FALSE(computes(*cache, first_.flip(0)));
  EXPECT_FALSE(computes(*cache, at::cat({second_.narrow(0, 1, 2), first_.narrow(0, 2, 1)})));
  EXPECT_TRUE(computes(*cache, first_.narrow(0, 0, 2))) << "a batch of another shape";
  EXPECT_EQ(cache->stats().positions_read, 3 * 21);
  EXPECT_EQ(cache->stats().positions_computed, 2 * 21 + 14);
  EXPECT_EQ(cache->stats().bytes, static_cast<std::int64_t>(fs::file_size(path_)));
}

TEST_F(ActivationCacheTest, ComputesABatchThatHasOneNewRow) {
  const auto cache = open();
  computes(*cache, first_);
  EXPECT_TRUE(computes(*cache, at::cat({first_.narrow(0, 0, 2), second_.narrow(0, 0, 1)})));
}

TEST_F(ActivationCacheTest, TellsRowsOfTheSameTokensApartByTheirDocuments) {
  const auto cache = open();
  const at::Tensor starts = at::zeros({3, 7}, at::kInt);
  starts.slice(1, 4).fill_(4);
  at::Tensor others = starts.clone();
  others[2].slice(0, 5).fill_(5);
  computes(*cache, first_);
  for (const at::Tensor& documents : {starts, others}) {
    EXPECT_TRUE(computes(*cache, first_, documents));
    EXPECT_FALSE(computes(*cache, first_, documents));
  }
  EXPECT_FALSE(computes(*cache, at::cat({first_, first_}).narrow(0, 1, 3), at::cat({starts, others}).narrow(0, 1, 3)))
      << "each row by itself";
  EXPECT_FALSE(computes(*cache, first_));
}

TEST_F(ActivationCacheTest, IsThereInTheNextProcess) {
  computes(*open(), first_);
  EXPECT_FALSE(computes(*open(), first_));
}

TEST_F(ActivationCacheTest, IsMadeAnewForOtherWeights) {
  computes(*open(), first_);
  EXPECT_TRUE(computes(*open("other weights"), first_));
  EXPECT_TRUE(computes(*open("weights"), first_)) << "the file is the other weights' now";
}

TEST_F(ActivationCacheTest, ComputesAgainWhatIsDamagedOrCutShort) {
  computes(*open(), first_);
  const auto whole = fs::file_size(path_);
  for (const std::int64_t from_end : {1, 100, 700, 800, 1500, 2300}) {  // in the data and the headers of each row
    fs::remove(path_);
    computes(*open(), first_);
    damage(from_end);
    const auto cache = open();
    EXPECT_TRUE(computes(*cache, first_)) << from_end;
    EXPECT_FALSE(computes(*cache, first_)) << from_end;
  }
  fs::remove(path_);
  computes(*open(), first_);
  for (auto size = static_cast<std::int64_t>(whole) - 1; size >= 0; size -= 97) {
    fs::resize_file(path_, static_cast<std::uintmax_t>(size));
    EXPECT_TRUE(computes(*open(), first_)) << size;
    EXPECT_EQ(fs::file_size(path_), whole) << "what was lost is appended";
  }
}

TEST_F(ActivationCacheTest, DropsEverythingWhereAnEntryIsDamaged) {
  computes(*open(), second_);
  computes(*open(), first_);
  const auto whole = fs::file_size(path_);
  // In the data of the last row; and an entry takes 760 bytes: in the length of the last but one, after its two hashes.
  for (const std::int64_t from_end : {1, 2 * 760 - 80}) {
    damage(from_end);
    auto cache = open();
    EXPECT_TRUE(computes(*cache, first_)) << from_end;
    if (from_end > 760) {
      EXPECT_TRUE(computes(*cache, first_)) << "first the row behind it was missing";
    }
    cache.reset();
    cache = open();
    EXPECT_FALSE(computes(*cache, first_)) << from_end;
    EXPECT_TRUE(computes(*cache, second_)) << from_end;
    EXPECT_FALSE(computes(*cache, second_)) << from_end;
    EXPECT_EQ(fs::file_size(path_), whole);
    cache.reset();
    fs::remove(path_);
    computes(*open(), second_);
    computes(*open(), first_);
  }
}

TEST_F(ActivationCacheTest, KeepsAgainWhatIsCutShortWhileInUse) {
  const auto cache = open();
  computes(*cache, first_);
  computes(*cache, second_);
  const auto whole = fs::file_size(path_);
  fs::resize_file(path_, 0);
  const at::Tensor same_twice = at::cat({first_.narrow(0, 0, 2), first_.narrow(0, 0, 1)});
  for (const at::Tensor& ids : {same_twice, first_, second_}) {
    EXPECT_TRUE(computes(*cache, ids));
    EXPECT_FALSE(computes(*cache, ids)) << "all of its rows were written at once";
  }
  EXPECT_EQ(fs::file_size(path_), whole);
  EXPECT_EQ(cache->stats().bytes, static_cast<std::int64_t>(whole));
}

TEST_F(ActivationCacheTest, NeverGrowsBeyondItsBudget) {
  const std::int64_t row = 7 * 24 * 4;
  for (const std::int64_t bytes : {std::int64_t{100}, 4 * row, 5 * row}) {
    fs::remove(path_);
    const auto cache = open("weights", bytes);
    computes(*cache, first_);
    const std::int64_t after_first = cache->stats().bytes;
    computes(*cache, second_);
    EXPECT_EQ(cache->stats().bytes, after_first) << "of a batch that does not fit no row is kept";
    EXPECT_LE(static_cast<std::int64_t>(fs::file_size(path_)), std::max<std::int64_t>(bytes, 80));
    EXPECT_EQ(computes(*cache, first_), bytes < 4 * row);
    EXPECT_TRUE(computes(*cache, second_)) << "no room for all of its rows";
  }
}

TEST_F(ActivationCacheTest, KeepsOnlyWhatWillComeAgain) {
  const auto cache = open();
  computes(*cache, first_, {}, /*keeps_new=*/false);
  EXPECT_TRUE(computes(*cache, first_));
  EXPECT_FALSE(computes(*cache, first_, {}, /*keeps_new=*/false));
}

TEST_F(ActivationCacheTest, KeepsNothingWhereRowsDependOnTheirPlaceInTheBatch) {
  const auto cache = open();
  const auto by_place = [&](const nn::TokenIds& ids, const Context& context) {
    at::Tensor h = expected(ids, context.document_starts);
    h.select(0, 0).add_(1);
    return h;
  };
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(cache->get(first_, {}, true, by_place).equal(by_place(first_, {})));
  EXPECT_EQ(cache->stats().positions_read, 0);
}

TEST_F(ActivationCacheTest, GivesTheDiskBackWhereItIsFull) {
  const auto cache = open();
  computes(*cache, first_);
  rlimit before = {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit low = {.rlim_cur = 3000, .rlim_max = before.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &low);
  EXPECT_TRUE(computes(*cache, second_));
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_LT(fs::file_size(path_), 100U);
  EXPECT_TRUE(computes(*cache, first_)) << "nothing is left";
  EXPECT_TRUE(computes(*cache, first_)) << "nothing is kept";
  EXPECT_TRUE(computes(*open(), first_)) << "and the file is whole";
}

TEST_F(ActivationCacheTest, TakesAnEmptyBatch) { EXPECT_EQ(get(*open(), first_.narrow(0, 0, 0)).size(0), 0); }

TEST_F(ActivationCacheTest, SaysWhereItCannotBeMade) {
  path_ = dir_.path() / "nowhere" / "activations";
  EXPECT_THROW(open(), DataError);
}

TEST_F(ActivationCacheTest, ServesAFrozenPrefixUpToItsLayersAndBeyond) {
  const auto cache = open();
  const FrozenPrefix prefix(decoder_, cache.get(), /*keeps_new=*/true);
  for (int i = 0; i < 3; ++i)
    for (const std::int64_t end : {1, 2, 3})
      EXPECT_TRUE(prefix.hidden(first_, end, {}).equal(decoder_.layers(decoder_.embed(first_), 0, end, {})));
  EXPECT_EQ(cache->stats().positions_read, 5 * 21) << "2 and 3 layers";
  EXPECT_EQ(cache->stats().positions_computed, 21);
  const FrozenPrefix reader(decoder_, cache.get(), /*keeps_new=*/false);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(reader.hidden(second_, 3, {}).equal(decoder_.forward(second_, {})));
  EXPECT_EQ(cache->stats().positions_computed, 3 * 21);
}

TEST(FrozenPrefix, BuildsNoGraph) {
  const ModelConfig config = test::tiny_config();
  Decoder decoder(config, test::random_weights(config));
  decoder.weights().layers[0].attention.body.output.linear.weight.requires_grad_();
  const at::Tensor ids = at::randint(0, 53, {2, 7}, at::kLong);
  EXPECT_TRUE(decoder.forward(ids, {}).requires_grad());
  EXPECT_FALSE(FrozenPrefix(decoder).hidden(ids, 3, {}).requires_grad());
}

}  // namespace
}  // namespace adept::model
