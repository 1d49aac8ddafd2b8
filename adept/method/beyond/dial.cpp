// Legend: B sequences, T tokens, D hidden_size.
#include "adept/method/beyond/dial.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/io/atomic_file.h"
#include "adept/io/record.h"
#include "adept/io/weight_files.h"
#include "adept/method/importance.h"
#include "adept/model/load.h"
#include "adept/model/save.h"
#include "adept/model/torch_tensors.h"
#include "adept/nn/stored.h"

namespace adept::method {
namespace {

constexpr int kSweeps = 2;
constexpr int kBisections = 6;

// The input of the lowest copy, for one batch.
struct Prefix {
  at::Tensor h;  // (B, T, D)
  nn::Targets targets;
  model::Context context;
  double factor = 0;  // of its losses in the mean
};

class DialedModel {
 public:
  DialedModel(model::Decoder& decoder, const Expansion& expansion, const std::vector<ProbeBatch>& general,
              const std::vector<ProbeBatch>& domain, std::vector<DialPoint>& known)
      : decoder_(decoder),
        expansion_(expansion),
        known_(known),
        general_(prefixes(general, "general text")),
        domain_(prefixes(domain, "domain text")) {
    for (const ExpandedLayer& copy : expansion_.layers) {
      trained_.emplace_back();
      for (const model::Parameter& p : outputs(copy)) trained_.back().push_back(*p.tensor);
    }
  }
  ~DialedModel() { set(std::vector<double>(trained_.size(), 1.0)); }
  DialedModel(const DialedModel&) = delete;
  DialedModel& operator=(const DialedModel&) = delete;

  DialPoint measure(const std::vector<double>& alphas, const Tick& tick) {
    const auto is_same = [&](const DialPoint& point) { return point.alphas == alphas; };
    if (const auto found = std::find_if(known_.begin(), known_.end(), is_same); found != known_.end()) return *found;
    set(alphas);
    const double general = loss(general_, tick), domain = loss(domain_, tick);
    for (const auto& [text, value] : {std::pair{"general", general}, std::pair{"domain", domain}})
      if (!std::isfinite(value))
        throw NonFiniteError(fmt::format(
            "{} text: the loss is not finite; the model's weights are damaged, or the model requires dtype fp32.",
            text));
    known_.push_back({.alphas = alphas, .general_loss = general, .domain_loss = domain});
    return known_.back();
  }

 private:
  std::int64_t lowest() const { return expansion_.layers.front().index; }

  std::vector<model::Parameter> outputs(const ExpandedLayer& copy) {
    return model::residual_outputs(decoder_.weights(), copy.index);
  }

  void set(const std::vector<double>& alphas) {
    const at::NoGradGuard no_grad;
    for (std::size_t c = 0; c < trained_.size(); ++c) {
      const std::vector<model::Parameter> slots = outputs(expansion_.layers[c]);
      for (std::size_t i = 0; i < slots.size(); ++i) {
        const at::Tensor& trained = trained_[c][i];
        *slots[i].tensor =
            alphas[c] == 1 ? trained : nn::scaled_effect(trained, alphas[c], slots[i].offset, decoder_.dtype());
      }
    }
  }

  std::vector<Prefix> prefixes(const std::vector<ProbeBatch>& batches, const char* text) const {
    const at::NoGradGuard no_grad;
    const std::vector<double> factors = mean_factors(batches, text);
    std::vector<Prefix> result;
    for (std::size_t b = 0; b < batches.size(); ++b) {
      throw_if_interrupted();
      const model::Batch& batch = batches[b].batch;
      if (batch.num_targets == 0) continue;
      const model::Context context = batch.context(throw_if_interrupted);
      result.push_back({.h = decoder_.layers(decoder_.embed(batch.input_ids), 0, lowest(), context),
                        .targets = batch.targets,
                        .context = context,
                        .factor = factors[b]});
    }
    return result;
  }

  double loss(const std::vector<Prefix>& prefixes, const Tick& tick) const {
    const at::NoGradGuard no_grad;
    double mean = 0;
    for (const Prefix& prefix : prefixes) {
      throw_if_interrupted();
      const at::Tensor h = decoder_.layers(prefix.h, lowest(), decoder_.num_layers(), prefix.context);
      mean += prefix.factor * decoder_.token_losses(h, prefix.targets).sum(at::kDouble).item<double>();
      tick(prefix.targets.values.numel());
    }
    return mean;
  }

  model::Decoder& decoder_;
  const Expansion& expansion_;
  std::vector<DialPoint>& known_;
  std::vector<Prefix> general_, domain_;
  std::vector<std::vector<at::Tensor>> trained_;
};

bool is_within_bound(const DialPoint& point, const DialPoint& base, const DialOptions& options) {
  return !options.max_general_rise || point.general_loss <= base.general_loss + *options.max_general_rise;
}

double cost(const DialPoint& point, double general_weight) {
  return point.domain_loss + general_weight * point.general_loss;
}

// The largest within the bound, or the best of the trade-off.
DialPoint choose(const std::vector<DialPoint>& curve, const DialOptions& options) {
  DialPoint chosen = curve.front();
  for (const DialPoint& point : curve)
    if (options.general_weight ? cost(point, *options.general_weight) < cost(chosen, *options.general_weight)
                               : is_within_bound(point, curve.front(), options))
      chosen = point;
  return chosen;
}

// The price of general loss in units of domain loss at which the curve meets the bound; 0 if it does not.
double worth_at_bound(const std::vector<DialPoint>& curve, double alpha) {
  const auto steps = static_cast<double>(curve.size() - 1);
  const auto below = static_cast<std::size_t>(alpha * steps);
  if (below + 1 >= curve.size()) return 0;
  const double rise = curve[below + 1].general_loss - curve[below].general_loss;
  const double fall = curve[below].domain_loss - curve[below + 1].domain_loss;
  return rise > 0 && fall > 0 ? fall / rise : 0;
}

Json point_json(const DialPoint& point) {
  return {{"alphas", point.alphas}, {"general_loss", point.general_loss}, {"domain_loss", point.domain_loss}};
}

class Search {
 public:
  Search(DialedModel& model, const DialOptions& options, const Tick& tick)
      : model_(model), options_(options), tick_(tick) {
    for (int i = 0; i < options.points; ++i) values_.push_back(static_cast<double>(i) / (options.points - 1));
  }

  std::vector<DialPoint> curve(std::size_t num_copies) {
    std::vector<DialPoint> points;
    for (const double alpha : values_) points.push_back(model_.measure(std::vector<double>(num_copies, alpha), tick_));
    base_ = points.front();
    return points;
  }

  // Of alphas * t with 0 < t < most: the point nearest to the bound that is within it; `inside` if there is none.
  DialPoint onto_bound(const std::vector<double>& alphas, double least, double most, DialPoint inside) {
    for (int i = 0; i < kBisections; ++i) {
      const double middle = 0.5 * (least + most);
      std::vector<double> scaled = alphas;
      for (double& alpha : scaled) alpha *= middle;
      const DialPoint point = model_.measure(scaled, tick_);
      const bool is_inside = is_within_bound(point, base_, options_);
      (is_inside ? least : most) = middle;
      if (is_inside) inside = point;
    }
    return inside;
  }

  // Searches each copy's alpha in turn, with the others fixed.
  DialPoint by_coordinates(DialPoint best, double general_weight) {
    for (int sweep = 0; sweep < kSweeps; ++sweep)
      for (std::size_t copy = 0; copy < best.alphas.size(); ++copy)
        for (const double alpha : values_) {
          std::vector<double> alphas = best.alphas;
          if (alphas[copy] == alpha) continue;
          alphas[copy] = alpha;
          const DialPoint point = model_.measure(alphas, tick_);
          if (cost(point, general_weight) < cost(best, general_weight)) best = point;
        }
    return best;
  }

 private:
  DialedModel& model_;
  const DialOptions& options_;
  const Tick& tick_;
  std::vector<double> values_;
  DialPoint base_;
};

Dial search_dial(Search& search, const DialOptions& options, std::size_t num_copies) {
  const std::vector<double> all(num_copies, 1.0);
  Dial dial;
  dial.curve = search.curve(all.size());
  dial.chosen = choose(dial.curve, options);
  if (const double low = dial.chosen.alphas.front(); options.max_general_rise && low < 1)
    dial.chosen = search.onto_bound(all, low, low + 1.0 / (options.points - 1), dial.chosen);
  if (!options.per_copy) return dial;
  if (options.general_weight) {
    dial.chosen = search.by_coordinates(dial.chosen, *options.general_weight);
    return dial;
  }
  // On the bound, no copy can improve alone: one must give up what another takes. Therefore the search uses a price for
  // general loss, and its result is scaled back onto the bound.
  const double worth = worth_at_bound(dial.curve, dial.chosen.alphas.front());
  DialPoint found = search.by_coordinates(dial.chosen, worth);
  if (const double largest = *std::max_element(found.alphas.begin(), found.alphas.end()); largest > 0)
    if (!is_within_bound(found, dial.curve.front(), options) || worth > 0)
      found = search.onto_bound(found.alphas, 0, 1 / largest, dial.chosen);
  if (is_within_bound(found, dial.curve.front(), options) && found.domain_loss < dial.chosen.domain_loss)
    dial.chosen = found;
  return dial;
}

}  // namespace

std::int64_t most_measurements(const DialOptions& options, const Expansion& expansion) {
  const std::int64_t search = kSweeps * std::ssize(expansion.layers) * options.points;
  const std::int64_t bisections = options.max_general_rise ? kBisections : 0;
  return options.points + bisections + (options.per_copy ? search + bisections : 0);
}

Json to_json(const std::vector<DialPoint>& points) {
  Json list = Json::array();
  for (const DialPoint& point : points) list.push_back(point_json(point));
  return list;
}

std::vector<DialPoint> points_from_json(const Json& json) {
  std::vector<DialPoint> points;
  for (const Json& point : json)
    points.push_back({.alphas = point.at("alphas").get<std::vector<double>>(),
                      .general_loss = point.at("general_loss").get<double>(),
                      .domain_loss = point.at("domain_loss").get<double>()});
  return points;
}

Dial measure_dial(model::Decoder& decoder, const Expansion& expansion, const std::vector<ProbeBatch>& general,
                  const std::vector<ProbeBatch>& domain, const DialOptions& options, Progress& progress) {
  std::vector<DialPoint> known;
  return measure_dial(decoder, expansion, general, domain, options, progress, known);
}

Dial measure_dial(model::Decoder& decoder, const Expansion& expansion, const std::vector<ProbeBatch>& general,
                  const std::vector<ProbeBatch>& domain, const DialOptions& options, Progress& progress,
                  std::vector<DialPoint>& known) {
  ADEPT_CHECK(!decoder.is_shared(), "a dial of layers that processes share");
  ADEPT_CHECK(options.points >= 2, "a curve of {} points", options.points);
  ADEPT_CHECK(options.max_general_rise.has_value() != options.general_weight.has_value(), "one criterion is wanted");
  DialedModel model(decoder, expansion, general, domain, known);
  std::int64_t done = 0, positions = 0;
  const Tick tick = [&](std::int64_t more) { progress.update(++done, positions += more); };
  Search search(model, options, tick);
  Dial dial = search_dial(search, options, expansion.layers.size());
  progress.set_total(done);  // the number of measurements of a search is known only at its end
  return dial;
}

void export_dialed(const std::filesystem::path& model_dir, const std::filesystem::path& out_dir,
                   const Expansion& expansion, std::span<const double> alphas, const Json& record,
                   io::OnExisting on_existing) {
  ADEPT_CHECK(alphas.size() == expansion.layers.size(), "{} alphas for {} copies", alphas.size(),
              expansion.layers.size());
  const model::ModelConfig config = model::read_model_config(model_dir);
  const io::WeightFiles files = model::open_weights(config, model_dir);
  model::check_weights(config, files);
  struct Scaling {
    double alpha = 1, offset = 0;
  };
  model::Weights slots;
  slots.layers = config.layers;
  std::map<std::string, Scaling> scalings;  // of tensors that change
  for (std::size_t c = 0; c < alphas.size(); ++c)
    for (const model::Parameter& p : model::residual_outputs(slots, expansion.layers[c].index))
      if (alphas[c] != 1) scalings[p.name] = {alphas[c], p.offset};
  std::vector<at::Tensor> scaled;
  std::vector<io::TensorView> views;
  for (const std::string& name : files.names()) {
    io::TensorView view = files.at(name);
    if (const auto found = scalings.find(name); found != scalings.end()) {
      const auto [alpha, offset] = found->second;
      const at::Tensor tensor = model::as_tensor(view, files.owner(name));
      scaled.push_back(nn::scaled_effect(tensor, alpha, offset).contiguous());
      view = model::as_view(name, scaled.back());
    }
    views.push_back(std::move(view));
  }
  io::AtomicDirectory directory(out_dir, on_existing);
  model::write_model_files(directory.path(), views, config.source, model_dir);
  io::write_record(directory.path() / kExpansionManifest, to_json(expansion));
  io::write_record(directory.path() / kDialRecord, record);
  copy_training_record(model_dir, directory.path());
  directory.commit();
}

Json to_json(const Dial& dial, const Expansion& expansion) {
  Json copies = Json::array(), curve = Json::array();
  for (const ExpandedLayer& copy : expansion.layers) copies.push_back(copy.index);
  for (const DialPoint& point : dial.curve)
    curve.push_back(
        {{"alpha", point.alphas.front()}, {"general_loss", point.general_loss}, {"domain_loss", point.domain_loss}});
  return {{"copies", copies}, {"curve", curve}, {"chosen", point_json(dial.chosen)}};
}

}  // namespace adept::method
