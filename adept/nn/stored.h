// The values of stored parameters. A parameter may be stored in another type than what is computed in; only nn knows.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace adept::nn {

/// The values in `type`, as a leaf that requires a gradient.
at::Tensor leaf_of(const at::Tensor& stored, at::ScalarType type);

/// The leaf of a parameter that trains with this fp32 master: the master itself if what computes in `type` reads it
/// (any in fp32, matrices in bf16), otherwise trained_leaf_of.
at::Tensor leaf_of_master(const at::Tensor& master, at::ScalarType type);

/// A leaf with these values in `type`, which has its own memory, or the tensor's if that is its type. Gradients are
/// added in fp32 in any case.
at::Tensor trained_leaf_of(const at::Tensor& values, at::ScalarType type);

/// What takes effect: stored + offset (1 for gains that are stored as w of 1 + w), fp32, without a graph.
at::Tensor effect_of(const at::Tensor& stored, double offset);

/// Whether any of it has an effect.
bool has_effect(const at::Tensor& stored, double offset);

/// The values to store for alpha times the effect, in `type`; by default in the type that is stored.
at::Tensor scaled_effect(const at::Tensor& stored, double alpha, double offset,
                         std::optional<at::ScalarType> type = std::nullopt);

/// The values to store for no effect, in `type`.
at::Tensor without_effect(const at::Tensor& stored, double offset, at::ScalarType type);

}  // namespace adept::nn
