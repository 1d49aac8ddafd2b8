// Checkpoints and exports of several processes, which rank 0 writes.
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>

#include <cstring>
#include <vector>

#include "adept/core/process_memory.h"
#include "adept/optim/whole_tensors.h"
#include "adept/train/checkpoint.h"
#include "processes.h"
#include "tests/support/open_files_left.h"
#include "tests/support/sanitizers.h"
#include "tests/support/temporary_directory.h"

namespace adept::train {
namespace {

using dist::ProcessGroup;
using dist::test::Outcome;
using optim::NamedPart;
using optim::Shard;
using optim::WholeTensors;

constexpr std::int64_t kWindow = optim::kGatheredBytes / 4;  // elements that are gathered at once

/// Every element has other bits, those of numbers that are not finite or negative zeros among them.
at::Tensor every_pattern(at::IntArrayRef shape, std::int64_t seed) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  const at::Tensor bits =
      (at::arange(count, at::kLong) * 2654435761 + (std::int64_t{1} << 31) * (seed + 1)).to(at::kInt);
  return bits.view(at::kFloat).view(shape);
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.is_contiguous() && b.is_contiguous() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

TEST(WholeTensors, OfSeveralRanksHaveTheBitsOfTheirParts) {
  const std::vector<std::vector<std::int64_t>> shapes = {{17},   {kWindow / 1000, 1001}, {1, 3},
                                                         {0, 5}, {kWindow / 2 + 5, 3},   {100, 7}};
  for (const Outcome& outcome : dist::test::run_job(3, [&](ProcessGroup& group) -> std::string {
         at::set_num_threads(1);
         std::vector<at::Tensor> tensors;
         std::vector<Shard> shards;
         for (const auto& shape : shapes) {
           tensors.push_back(every_pattern(shape, std::ssize(tensors)));
           shards.push_back(optim::row_shard(shape, {group.rank(), group.size()}));
         }
         shards[4].bounds = {0, 1, 1, tensors[4].numel()};  // within a row, and nothing of the second rank
         std::vector<NamedPart> parts;
         for (std::size_t i = 0; i < tensors.size(); ++i)
           parts.push_back({std::to_string(i), shards[i].of(tensors[i]).clone(), &shards[i]});
         WholeTensors whole(parts, group);
         std::string wrong;
         for (const bool backwards : {false, true})
           whole.on_first([&] {
             for (std::size_t i = 0; i < tensors.size(); ++i) {
               const std::size_t index = backwards ? tensors.size() - 1 - i : i;
               if (!same_bits(whole.whole(std::to_string(index)), tensors[index])) wrong += std::to_string(index);
             }
           });
         return wrong.empty() ? "ok" : wrong;
       }))
    EXPECT_EQ(outcome.text, "ok");
}

TEST(WholeTensors, AreGatheredOnceWhereTheyAreReadInOrder) {
  for (const Outcome& outcome : dist::test::run_job(2, [&](ProcessGroup& group) -> std::string {
         std::vector<Shard> shards;
         std::vector<NamedPart> parts;
         for (int i = 0; i < 100; ++i) shards.push_back(optim::row_shard({64, 10}, {group.rank(), group.size()}));
         for (int i = 0; i < 100; ++i)
           parts.push_back(
               {std::to_string(i), at::full({shards[0].size()}, 1.0F), &shards[static_cast<std::size_t>(i)]});
         WholeTensors whole(parts, group);
         const void* data = nullptr;
         bool is_in_place = true;
         whole.on_first([&] {
           for (int i = 0; i < 100; ++i)
             whole.read(std::to_string(i), [&](const at::Tensor& piece) {
               if (data == nullptr) data = piece.const_data_ptr();
               const auto* expected = static_cast<const float*>(data) + std::ptrdiff_t{640} * i;
               is_in_place = is_in_place && piece.numel() == 640 && piece.const_data_ptr() == expected;
             });
         });
         return is_in_place ? "ok" : "gathered several times";
       }))
    EXPECT_EQ(outcome.text, "ok");
}

/// A state of 3 x 96 MiB that two ranks divide.
constexpr std::int64_t kRows = 24 << 10, kColumns = 1 << 10;

TEST(SavesOfRanks, TakeLittleMemoryAboveWhatTheRanksHave) {
  if (adept::test::has_sanitizers()) GTEST_SKIP() << "their memory is another";
  const adept::test::TemporaryDirectory dir;
  const RunIdentity identity = {.model = {}, .frozen_hash = {}, .config = Json::object()};
  const auto outcomes = dist::test::run_job(2, [&](ProcessGroup& group) -> std::string {
    at::set_num_threads(1);
    const Shard shard = optim::row_shard({kRows, kColumns}, {group.rank(), group.size()});
    const at::Tensor master = at::full({shard.size()}, group.rank() + 1.0F);
    const optim::AdamW optimizer({{.name = "m", .master = master, .shard = shard}}, {});
    WholeTensors tensors(optimizer.state(), group);
    group.barrier();
    reset_peak_rss();
    const std::int64_t before = peak_rss_bytes();
    tensors.on_first([&] { save_checkpoint(dir.path(), {}, identity, optimizer, tensors); });
    return std::to_string((peak_rss_bytes() - before) >> 20);
  });
  for (const Outcome& outcome : outcomes) {
    ASSERT_EQ(outcome.exit_code, 0) << outcome.text;
    EXPECT_LT(std::stoi(outcome.text), 200) << "MiB; the whole state has 288";
  }
  optim::AdamW loaded({{.name = "m", .master = at::full({kRows, kColumns}, 0.0F)}}, {});
  ASSERT_TRUE(load_newest_checkpoint(dir.path(), identity, loaded).has_value());
  const at::Tensor master = loaded.parameters()[0].master;
  for (const int rank : {0, 1})
    EXPECT_TRUE(optim::row_shard({kRows, kColumns}, {rank, 2}).of(master).eq(rank + 1).all().item<bool>());
}

}  // namespace
}  // namespace adept::train
