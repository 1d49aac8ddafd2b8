#include "adept/model/layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace adept::model {
namespace {

// Heads are of slices of E; neurons are slices themselves. Outputs are read by columns.
Slices slices_of(const Attention& body, std::int64_t dim) { return {Axis::kHead, dim, body.head_dim, {}}; }
Slices slices_of(const FeedForward&, std::int64_t dim) { return {Axis::kNeuron, dim, 1, {}}; }

// visit(norm or projection, role, how its rows or columns fall into pieces), in the order of the computation.
template <typename Visitor>
void walk_branch(auto& branch, const Visitor& visit) {
  auto& body = branch.body;
  if (branch.pre_norm) visit(*branch.pre_norm, Role::kNorm, Slices{});
  for (auto& input : body.inputs) visit(input, Role::kProjection, slices_of(body, 0));
  if constexpr (requires { body.q_norm; })
    for (auto* norm : {&body.q_norm, &body.k_norm})
      if (*norm) visit(**norm, Role::kNorm, body.norms_whole_width() ? slices_of(body, 0) : Slices{});
  visit(body.output, branch.post_norm ? Role::kProjection : Role::kResidualOutput, slices_of(body, 1));
  if (branch.post_norm) visit(*branch.post_norm, Role::kResidualOutput, Slices{});
}

template <typename Visitor>
void walk(auto& layer, const Visitor& visit) {
  walk_branch(layer.attention, visit);
  walk_branch(layer.feed_forward, visit);
}

// The table of one layer while it grows.
struct Table {
  std::vector<Parameter> rows;

  void add(std::string_view name, std::string_view gguf_name, const char* suffix, std::vector<std::int64_t> shape,
           Role role, Slices slices, at::Tensor& tensor) {
    Parameter& p = rows.emplace_back();
    p.name = p.local_name = fmt::format("{}.{}", name, suffix);
    p.shape = std::move(shape);
    p.role = role;
    p.slices = std::move(slices);
    p.gguf_name = fmt::format("{}.{}", gguf_name, suffix);
    p.tensor = &tensor;
  }

  void operator()(Norm& norm, Role role, const Slices& slices) {
    add(norm.name, norm.gguf_name, "weight", {norm.width}, role, slices, norm.weight);
    rows.back().offset = norm.offset();
  }

  void operator()(Projection& p, Role role, Slices slices) {
    if (slices.dim == 0) slices.sections = p.sections;
    add(p.name, p.gguf_name, "weight", {p.rows, p.columns}, role, slices, p.linear.weight);
    rows.back().gguf_heads = p.gguf_heads;
    if (!p.has_bias) return;
    add(p.name, p.gguf_name, "bias", {p.rows}, role, slices.dim == 0 ? slices : Slices{}, p.linear.bias);
    rows.back().gguf_heads = p.gguf_heads;
  }
};

template <typename Found>
std::vector<Found*> all_projections(auto& layer) {
  std::vector<Found*> found;
  walk(layer, [&]<typename Part>(Part& part, Role, const Slices&) {
    if constexpr (std::is_same_v<std::remove_const_t<Part>, Projection>) found.push_back(&part);
  });
  return found;
}

}  // namespace

std::int64_t Parameter::numel() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::vector<Parameter> parameters_of(Layer& layer) {
  Table table;
  walk(layer, [&](auto& part, Role role, const Slices& slices) { table(part, role, slices); });
  return std::move(table.rows);
}

std::vector<Projection*> projections_of(Layer& layer) { return all_projections<Projection>(layer); }
std::vector<const Projection*> projections_of(const Layer& layer) { return all_projections<const Projection>(layer); }

std::optional<LayerDifference> difference(const Layer& a, const Layer& b) {
  const Attention &x = a.attention.body, &y = b.attention.body;
  if (x.window != y.window)
    return LayerDifference{fmt::format("sees {} tokens (0 = all)", x.window), fmt::format("see {}", y.window)};
  if (x.rope != y.rope) return LayerDifference{"has rotary positions of its own", "have others"};
  if (x.scoring.scale != y.scoring.scale || x.scoring.soft_cap != y.scoring.soft_cap)
    return LayerDifference{"has a scale or soft cap of its own", "have another"};
  if (a.attention.multiplier != b.attention.multiplier || a.feed_forward.multiplier != b.feed_forward.multiplier)
    return LayerDifference{"has a residual multiplier of its own", "have another"};
  Layer first = a, second = b;
  const std::vector<Parameter> p = parameters_of(first), q = parameters_of(second);
  const auto is_same = [](const Parameter& one, const Parameter& other) {
    return one.local_name == other.local_name && one.shape == other.shape && one.role == other.role;
  };
  if (std::equal(p.begin(), p.end(), q.begin(), q.end(), is_same)) return std::nullopt;
  return LayerDifference{"has parameters of its own", "have others"};
}

}  // namespace adept::model
