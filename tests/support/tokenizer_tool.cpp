// A program for the parity tests: tokenizer_tool TOKENIZER.json|MODEL_DIR [--time [THREADS]]
//
// Reads JSON lines from standard input and answers each with one line:
//   "text" or {"hex": "66ff"}  ->  {"ids", "bare": without special tokens, "text": decoded ids, "plain": without
//   special tokens} [1, 2, 3]                  ->  {"text", "plain"}
// A failure of one line is {"error": message}. With --time the lines are only encoded (by THREADS threads, 1),
// and the seconds, bytes and tokens printed.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/core/log.h"
#include "adept/data/tokenizer/special_tokens.h"
#include "adept/data/tokenizer/tokenizer.h"

namespace {

using adept::Json;
using adept::data::Tokenizer;

std::string bytes_of(const Json& request) {
  if (request.is_string()) return request.get<std::string>();
  const auto hex = request.at("hex").get<std::string>();
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(static_cast<unsigned char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

Json answer(const Tokenizer& tokenizer, const Json& request) {
  Json reply;
  std::vector<std::int32_t> ids;
  if (request.is_array()) {
    ids = request.get<std::vector<std::int32_t>>();
  } else {
    const std::string text = bytes_of(request);
    ids = tokenizer.encode(text);
    reply["ids"] = ids;
    reply["bare"] = tokenizer.encode(text, false);
  }
  reply["text"] = tokenizer.decode(ids);
  reply["plain"] = tokenizer.decode(ids, true);
  return reply;
}

// All texts are read first; each thread then encodes every n-th one.
void time_lines(const Tokenizer& tokenizer, std::size_t num_threads) {
  std::vector<std::string> texts;
  std::size_t bytes = 0;
  for (std::string line; std::getline(std::cin, line);) {
    texts.push_back(bytes_of(adept::parse_json(line, "standard input")));
    bytes += texts.back().size();
  }
  std::atomic<std::size_t> tokens = 0;
  const auto encode_from = [&](std::size_t first) {
    std::size_t count = 0;
    for (std::size_t i = first; i < texts.size(); i += num_threads) count += tokenizer.encode(texts[i]).size();
    tokens += count;
  };
  const auto start = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 1; i < num_threads; ++i) threads.emplace_back(encode_from, i);
    encode_from(0);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cout << Json{{"seconds", seconds.count()}, {"bytes", bytes}, {"tokens", tokens.load()}}.dump() << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  adept::init_logging();
  try {
    if (argc < 2) throw adept::ConfigError("usage: tokenizer_tool TOKENIZER.json|MODEL_DIR [--time [THREADS]] < lines");
    const bool is_model = std::filesystem::is_directory(argv[1]);
    const Tokenizer tokenizer = is_model ? Tokenizer::from_model_dir(argv[1]) : Tokenizer::from_file(argv[1]);
    if (argc > 2) {
      time_lines(tokenizer, argc > 3 ? std::stoul(argv[3]) : 1);
      return 0;
    }
    const auto id_of = [&](const char* role) {
      const auto id = is_model ? adept::data::load_special_token(argv[1], tokenizer, role) : std::nullopt;
      return id ? Json(*id) : Json();
    };
    std::cout << Json{{"vocab_size", tokenizer.vocab_size()},
                      {"max_token_id", tokenizer.max_token_id()},
                      {"bos", id_of("bos")},
                      {"eos", id_of("eos")},
                      {"pad", id_of("pad")}}
                     .dump()
              << '\n';
    for (std::string line; std::getline(std::cin, line);) {
      Json reply;
      try {
        reply = answer(tokenizer, adept::parse_json(line, "standard input"));
      } catch (const adept::Error& error) {
        reply = {{"error", error.what()}};
      }
      std::cout << reply.dump() << '\n';
    }
    return 0;
  } catch (const adept::Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return static_cast<int>(error.exit_code());
  }
}
