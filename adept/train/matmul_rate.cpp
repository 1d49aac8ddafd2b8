#include "adept/train/matmul_rate.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "adept/core/json.h"
#include "adept/io/cache_directory.h"
#include "adept/io/record.h"
#include "adept/nn/kernels.h"
#include "adept/nn/matmul.h"
#include "adept/train/compute.h"

namespace adept::train {
namespace {

namespace fs = std::filesystem;

constexpr double kMostSeconds = 3;
constexpr int kFewestTrials = 4;
constexpr double kAgreement = 1.02;
constexpr std::int64_t kMeasureAgain = 3600;  // seconds

struct KnownRate {
  double rate = 0;            // 0: not known
  std::int64_t measured = 0;  // seconds since 1970
};

std::int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

double rate_now(at::ScalarType dtype, at::Device device) {
  const at::NoGradGuard no_grad;
  const std::int64_t n = device.is_cpu() ? 2048 : 8192;
  const auto options = at::TensorOptions(dtype).device(device);
  // Random numbers, which cost a GPU more power than constants; does not use the generator of training.
  const at::Generator generator = at::detail::createCPUGenerator(1);
  const at::Tensor a = at::randn({n, n}, generator, at::kFloat).to(options);
  at::Tensor b = a.t().contiguous(), c = at::empty({n, n}, options);
  const auto once = [&] {
    const auto start = std::chrono::steady_clock::now();
    nn::matmul_out(c, a, b);
    c.select(0, 0).select(0, 0).item();  // wait for the device
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  once();
  const double seconds = detail::shortest_time(once, kMostSeconds);
  nn::release_thread_workspaces();  // a step may need less
  return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / seconds;
}

/// An empty object for a file that cannot be read.
Json read_rates(const fs::path& file) {
  try {
    if (fs::exists(file)) return io::read_record(file);
  } catch (const std::exception&) {
    // measured again
  }
  return Json::object();
}

KnownRate known_rate(const Json& rates, const std::string& key) {
  const auto known = rates.find(key);
  if (known == rates.end() || !known->is_object()) return {};
  const Json rate = known->value("rate", Json()), measured = known->value("measured", Json());
  if (!rate.is_number() || !measured.is_number_integer()) return {};
  return {.rate = rate.get<double>(), .measured = measured.get<std::int64_t>()};
}

void write_rate(Json rates, const std::string& key, const KnownRate& known, const fs::path& file) {
  rates[key] = {{"rate", known.rate}, {"measured", known.measured}};
  try {
    fs::create_directories(file.parent_path());
    io::write_record(file, rates);
  } catch (const std::exception&) {
    // the next run measures again
  }
}

}  // namespace

double detail::shortest_time(const std::function<double()>& trial, double most) {
  double best = std::numeric_limits<double>::infinity(), second = best, total = 0;
  for (int i = 0; i < kFewestTrials || (second > kAgreement * best && total < most); ++i) {
    const double seconds = trial();
    total += seconds;
    second = std::min(second, std::max(best, seconds));
    best = std::min(best, seconds);
  }
  return best;
}

double measure_matmul_rate(at::ScalarType dtype, at::Device device, const fs::path& file) {
  const double now = rate_now(dtype, device);
  const std::string key = describe_compute(dtype, device);
  const Json rates = read_rates(file);
  const double rate = std::max(known_rate(rates, key).rate, now);
  write_rate(rates, key, {.rate = rate, .measured = now_seconds()}, file);
  return rate;
}

double matmul_rate(at::ScalarType dtype, at::Device device, const fs::path& file) {
  const KnownRate known = known_rate(read_rates(file), describe_compute(dtype, device));
  const std::int64_t age = now_seconds() - known.measured;
  const bool is_fresh = age >= 0 && age < kMeasureAgain;
  return known.rate > 0 && is_fresh ? known.rate : measure_matmul_rate(dtype, device, file);
}

void keep_matmul_rate(double rate, at::ScalarType dtype, at::Device device, const fs::path& file) {
  const std::string key = describe_compute(dtype, device);
  const Json rates = read_rates(file);
  const KnownRate known = known_rate(rates, key);
  if (known.rate < rate)
    write_rate(rates, key, {.rate = rate, .measured = known.rate > 0 ? known.measured : now_seconds()}, file);
}

fs::path matmul_rate_file() { return io::cache_directory() / "matmul_rates.json"; }

}  // namespace adept::train
