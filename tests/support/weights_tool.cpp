// A program for the parity tests: reads and writes weights.
//
//   weights_tool copy FILE OUT             one safetensors file, its metadata too
//   weights_tool reshard DIR OUT BYTES     a model directory in shards of at most BYTES
//   weights_tool hash DIR                  the content hash
//   weights_tool refuse FILE...            one line per file: the message that refuses it, or "read"
#include <fmt/format.h>

#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/io/safetensors.h"
#include "adept/io/weight_files.h"

namespace {

using namespace adept::io;

void reshard(const std::string& from, const std::string& to, std::int64_t max_shard_bytes) {
  const WeightFiles weights = WeightFiles::open(from);
  std::vector<TensorView> tensors;
  for (const std::string& name : weights.names()) tensors.push_back(weights.at(name));
  write_weight_files(to, tensors, max_shard_bytes);
}

std::string refusal(const std::string& path) {
  try {
    SafetensorsFile::open(path);
    return "read";
  } catch (const adept::DataError& error) {
    return error.what();
  }
}

int run(const std::vector<std::string>& arguments) {
  const std::string command = arguments.empty() ? "" : arguments[0];
  if (command == "copy" && arguments.size() == 3) {
    const auto file = SafetensorsFile::open(arguments[1]);
    write_safetensors(arguments[2], file->tensors(), file->metadata());
  } else if (command == "reshard" && arguments.size() == 4) {
    reshard(arguments[1], arguments[2], std::stoll(arguments[3]));
  } else if (command == "hash" && arguments.size() == 2) {
    fmt::print("{}\n", WeightFiles::open(arguments[1]).hash());
  } else if (command == "refuse") {
    for (std::size_t i = 1; i < arguments.size(); ++i) fmt::print("{}\n", refusal(arguments[i]));
  } else {
    fmt::print(stderr, "usage: weights_tool copy|reshard|hash|refuse ...\n");
    return 2;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
