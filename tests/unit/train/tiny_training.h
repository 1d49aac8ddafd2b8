// Whole training runs on tiny data, for the tests of the trainer.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "adept/train/trainer.h"
#include "tests/support/tiny_models.h"

namespace adept::train {

namespace fs = std::filesystem;

inline data::TokenDataset dataset_of(const std::string& name, const std::vector<std::int64_t>& lengths,
                                     std::uint64_t seed) {
  std::vector<std::vector<std::int32_t>> documents;
  std::vector<std::int64_t> bytes;
  for (const std::int64_t length : lengths) {
    documents.push_back(test::random_tokens(length, seed * 100 + documents.size()));
    bytes.push_back(length * 4);
  }
  return data::TokenDataset(data::DatasetInfo{.name = name, .vocab_size = 53, .counts = {}}, documents, bytes);
}

// 12 steps of 2 x 2 sequences from two sources, the units' rates updated every 5 steps.
inline config::RunConfig small_config() {
  config::RunConfig config;
  config.compute.dtype = config::DTypeChoice::kFp32;
  config.seed = 7;
  config.seq_len = 8;
  config.train.learning_rate = 1e-2;
  config.train.lr_scheduler = optim::ScheduleKind::kCosine;
  config.train.warmup_steps = 3;
  config.train.max_steps = 12;
  config.train.batch_size = 2;
  config.train.grad_accum = 2;
  config.train.adamw.weight_decay = 0.05;
  config.train.logging_steps = 2;
  config.train.save_steps = 1;
  config.train.save_total_limit = 100;
  config.unit_lr.update_every = 5;
  return config;
}

inline data::TrainLoader make_loader(const config::RunConfig& config, std::uint64_t data_seed = 1) {
  return {{{.dataset = dataset_of("domain", {11, 30, 7, 19, 5}, data_seed), .weight = 0.7},
           {.dataset = dataset_of("replay", {13, 26, 9}, data_seed + 1), .weight = 0.3}},
          {.seq_len = config.seq_len,
           .eos = 2,
           .seed = static_cast<std::uint64_t>(config.seed),
           .document_mask = config.data.document_mask}};
}

// One source of five documents: 77 tokens with an EOS behind each, ten sequences.
inline data::TrainLoader make_loader_of_one_source() {
  return {{{.dataset = dataset_of("domain", {11, 30, 7, 19, 5}, 1)}}, {.seq_len = 8, .eos = 2, .seed = 7}};
}

inline eval::EvalSet held_out(const std::string& name = "held-out") {
  return {name, data::packed(dataset_of(name, {20, 9}, 8), {.seq_len = 8, .eos = 2})};
}

inline std::vector<method::ProbeBatch> probe_batches(std::uint64_t seed = 31) {
  return {{test::random_batch({8, 5}, seed)}, {test::random_batch({7}, seed + 1)}};
}

inline TrainerInputs make_inputs(const config::RunConfig& config, const fs::path& model_dir, const fs::path& run_dir) {
  fs::create_directories(run_dir);
  return {.config = config,
          .model_dir = model_dir,
          .run_dir = run_dir,
          .loader = make_loader(config),
          .probe = probe_batches(),
          .eval = {}};
}

inline TrainSummary train(const config::RunConfig& config, const fs::path& model_dir, const fs::path& run_dir,
                          bool resume = false) {
  return Trainer(make_inputs(config, model_dir, run_dir)).run(resume);
}

// A copy of a run as it was when it was killed after step n: later checkpoints are not there, later log lines are.
inline void copy_killed_after(const fs::path& run, const fs::path& copy, std::int64_t step) {
  fs::copy(run, copy, fs::copy_options::recursive);
  for (const fs::path& checkpoint : list_checkpoints(copy))
    if (std::stoll(checkpoint.filename().string().substr(11)) > step) fs::remove_all(checkpoint);
}

// Two runs hold the same weights and moments after a step, bit for bit.
inline void expect_same_tensors(const fs::path& found, const fs::path& expected, const std::string& checkpoint) {
  for (const char* file : {"trainable.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(test::read_file(found / checkpoint / file), test::read_file(expected / checkpoint / file)) << file;
}

inline std::vector<Json> lines_of(const fs::path& path) {
  std::vector<Json> lines;
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) lines.push_back(parse_json(line, path.string()));
  return lines;
}

}  // namespace adept::train
