// Splits of a data set by the names of its files, as Hugging Face's datasets finds them. Internal to adept::data.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace adept::data {

/// The name of a split in one spelling: "validation" for val, valid and dev, "test" for testing, eval and evaluation,
/// "train" for training; any other name is its own.
std::string canonical_split(std::string_view name);

/// The split of a file found in `folder`; empty if its name tells none. Known forms: train-00000-of-00002.parquet (any
/// name in front of the shard), a split that the folder's dataset_info.json lists (wikitext-train.arrow),
/// train.jsonl, my_train-1.csv, train/any.parquet (the common names only), and train/data-00000-of-00001.arrow in the
/// folder of a DatasetDict (dataset_dict.json).
std::string split_of(const std::filesystem::path& file, const std::filesystem::path& folder);

/// A line for each set of shards (train-00000-of-00002.parquet) of which some, but not all, are among the files.
std::vector<std::string> missing_shards(const std::vector<std::filesystem::path>& files);

/// What datasets writes beside the data: why a file with this name is no data, or empty.
std::string_view dataset_record(const std::filesystem::path& file);

}  // namespace adept::data
