// Tensors that the processes of a job divide, read whole by the first one, which writes files of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/dist/process_group.h"
#include "adept/optim/shard.h"

namespace adept::optim {

/// What this process has of a tensor.
struct NamedPart {
  std::string name;
  at::Tensor values;             ///< fp32: the whole tensor, or this rank's part, (n)
  const Shard* shard = nullptr;  ///< null: this process has the whole tensor
};

/// fp32 tensors that rank 0 reads one after another, in pieces: at most kGatheredBytes of what ranks divide are whole
/// at a time.
class WholeTensors {
 public:
  /// Every rank makes it, with the same names in the order in which they are best read: kGatheredBytes are gathered at
  /// once, across tensors. They must not change while they are read.
  explicit WholeTensors(std::vector<NamedPart> parts, dist::ProcessGroup& group = dist::world());

  /// ProcessGroup::on_first(), with work that may read. Every rank calls it.
  void on_first(FunctionRef<void()> work);

  bool contains(const std::string& name) const { return places_.contains(name); }
  /// Passes on the elements of a tensor, in order: pieces (n) on the host, valid during the call. A tensor on the host
  /// that this process has whole is not copied.
  void read(const std::string& name, FunctionRef<void(const at::Tensor& piece)> take);
  /// The tensor in its shape: itself if this process has it whole, else a copy on the host.
  at::Tensor whole(const std::string& name);

 private:
  struct Place {
    std::size_t index;   // in parts_
    std::int64_t begin;  // among the elements of all divided tensors
  };
  void gather(std::int64_t window);

  std::vector<NamedPart> parts_;
  dist::ProcessGroup& group_;
  std::map<std::string, Place> places_;
  std::int64_t num_divided_ = 0;                  // elements
  std::optional<dist::ProcessGroup::Help> help_;  // within on_first() on rank 0
  // The elements that were gathered last: on rank 0.
  std::int64_t window_ = -1;
  at::Tensor elements_;
};

}  // namespace adept::optim
