#include "adept/model/generate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/random.h"
#include "adept/core/signals.h"
#include "adept/model/config_reader.h"
#include "adept/model/kv_cache.h"

namespace adept::model {
namespace {

constexpr std::size_t kPrefillTokens =
    1024;  // tokens of a prompt per pass, to limit memory and the response time to signals

at::Tensor as_row(std::span<const std::int64_t> ids) {
  return at::tensor(at::IntArrayRef(ids.data(), ids.size()), at::kLong).unsqueeze(0);
}

/// The final hidden state of the last token, (1, 1, D), the first `cached` of which are in the cache; null: without
/// one.
at::Tensor last_hidden(const Decoder& decoder, std::span<const std::int64_t> ids, std::size_t cached,
                       KeyValueCache* cache) {
  at::Tensor h;
  const std::size_t at_once = cache == nullptr ? ids.size() : kPrefillTokens;
  const auto length = static_cast<std::int64_t>(ids.size());
  for (std::size_t begin = cached; begin < ids.size(); begin += at_once) {
    const at::Tensor input = as_row(ids.subspan(begin, std::min(at_once, ids.size() - begin)));
    h = decoder.forward(input, {.cache = cache, .text_length = length, .between = throw_if_interrupted});
  }
  return h.narrow(1, h.size(1) - 1, 1);
}

/// Whether keys of a text of so many tokens are rotated as if it had another length.
bool turns_anew(const Decoder& decoder, std::size_t length, std::size_t longer) {
  return std::ranges::any_of(decoder.config().ropes, [&](const nn::RopeParameters& rope) {
    return rope.is_long(static_cast<std::int64_t>(length)) != rope.is_long(static_cast<std::int64_t>(longer));
  });
}

}  // namespace

void check_generate_options(const GenerateOptions& options) {
  if (options.max_new_tokens < 0) {
    throw ConfigError("max_new_tokens is {}; expected 0 or more", options.max_new_tokens);
  }
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    throw ConfigError("temperature is {}; expected 0 (greedy) or more", options.temperature);
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw ConfigError("top_p is {}; expected a number above 0, at most 1", options.top_p);
  }
}

std::vector<std::int64_t> read_end_tokens(const std::filesystem::path& model_dir, const ModelConfig& config) {
  const std::filesystem::path path = model_dir / "generation_config.json";
  if (!is_present(path)) return config.eos_token_ids;
  const Json source = read_json(path);
  if (!source.is_object()) throw DataError("{}: expected a JSON object, found {}", path.string(), brief(source));
  std::vector<std::string> problems;
  ConfigReader reader(source, "", problems);
  if (!reader.has("eos_token_id")) return config.eos_token_ids;
  std::vector<std::int64_t> tokens = reader.integers("eos_token_id", 0, config.vocab_size - 1);
  if (!problems.empty()) throw DataError("{}: {}", path.string(), problems.front());
  return tokens;
}

std::int64_t sample_token(const at::Tensor& logits, double temperature, double top_p, double u) {
  const at::Tensor values = logits.to(at::kCPU, at::kDouble).contiguous();
  const std::span<const double> scores(values.const_data_ptr<double>(), static_cast<std::size_t>(values.numel()));
  ADEPT_CHECK(!scores.empty(), "no logits");
  const auto best = std::max_element(scores.begin(), scores.end());  // the first of equals
  if (!std::isfinite(*best) || std::any_of(scores.begin(), scores.end(), [](double x) { return std::isnan(x); })) {
    throw NonFiniteError("the model's logits are not finite; its weights are damaged, or it requires dtype fp32");
  }
  if (temperature == 0) return best - scores.begin();

  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  std::vector<double> cumulative(order.size());
  double total = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    total += std::exp((scores[static_cast<std::size_t>(order[i])] - *best) / temperature);
    cumulative[i] = total;
  }
  // The smallest set whose probability reaches top_p, then a draw within it.
  const auto last =
      std::min(std::lower_bound(cumulative.begin(), cumulative.end(), top_p * total), cumulative.end() - 1);
  const auto drawn = std::upper_bound(cumulative.begin(), last, u * *last);
  return order[static_cast<std::size_t>(drawn - cumulative.begin())];
}

std::vector<std::int64_t> generate(const Decoder& decoder, std::span<const std::int64_t> prompt,
                                   const GenerateOptions& options, const std::function<bool(std::int64_t)>& on_token) {
  check_generate_options(options);
  if (prompt.empty()) throw ConfigError("found a prompt without tokens; expected at least one character of text");
  for (const std::int64_t id : prompt)
    if (id < 0 || id >= decoder.config().vocab_size)
      throw DataError("the tokenizer produces the id {}, but the model's vocabulary has {} ids; they do not match.", id,
                      decoder.config().vocab_size);
  const at::NoGradGuard no_grad;
  std::vector<std::int64_t> ids(prompt.begin(), prompt.end());
  KeyValueCache cache(decoder.num_layers());
  std::size_t cached = 0;
  for (std::int64_t step = 0; step < options.max_new_tokens; ++step) {
    if (turns_anew(decoder, cached, ids.size())) {
      cache = KeyValueCache(decoder.num_layers());
      cached = 0;
    }
    const at::Tensor h =
        options.use_cache ? last_hidden(decoder, ids, cached, &cache) : last_hidden(decoder, ids, 0, nullptr);
    cached = ids.size();
    const at::Tensor last = decoder.logits(h).reshape({-1});
    const double u = random_uniform(options.seed, RandomStream::kSampling, static_cast<std::uint64_t>(step));
    const std::int64_t token = sample_token(last, options.temperature, options.top_p, u);
    ids.push_back(token);
    const bool ended =
        std::find(options.eos_token_ids.begin(), options.eos_token_ids.end(), token) != options.eos_token_ids.end();
    if ((on_token && !on_token(token)) || ended) break;
  }
  return {ids.begin() + static_cast<std::ptrdiff_t>(prompt.size()), ids.end()};
}

}  // namespace adept::model
