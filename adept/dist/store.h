// The store at which the processes of a job meet: c10d's TCPStore.
#pragma once

#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "adept/dist/launch.h"

namespace adept::dist {

/// Connects to the store of the job, of this attempt. `may_serve`: rank 0 starts the server, if no other
/// program is it. Throws DataError if the port is in use, or the host is not reached within `timeout`.
c10::intrusive_ptr<c10d::Store> open_store(const Launch& launch, std::chrono::milliseconds timeout, bool may_serve);

/// What the processes of one attempt of a job (Launch::attempt) see of `store`.
c10::intrusive_ptr<c10d::Store> of_attempt(c10::intrusive_ptr<c10d::Store> store, const std::string& attempt);

/// Says that this process is `rank` of the job. False if another one has said so.
bool claim_rank(c10d::Store& store, int rank);
/// Whether a process has said so.
bool is_claimed(c10d::Store& store, int rank);

/// How many processes the job has, as the first one that came says.
struct ClaimedSize {
  int size = 0, rank = 0;  ///< rank: of the first one
};
/// Says that the job has `size` processes, unless another one has said it before.
ClaimedSize claim_size(c10d::Store& store, int size, int rank);
/// The same for a process that does not know; LaunchError::kUnknownSize if no other one has come.
int claimed_size(c10d::Store& store);

/// Whether the job lacks a process that `launch`, which may be incomplete (LaunchError), can be. Claims its rank.
bool lacks(c10d::Store& store, const Launch& launch);

/// Call before anything of c10d, which otherwise logs each failure with a stack trace before it throws. The user's
/// $TORCH_CPP_LOG_LEVEL takes precedence.
void quiet_c10d();

/// "rank 1", or "a process on HOST" of an unknown rank.
std::string name_of(const Launch& launch);

/// "host:port (rank 0)", for messages.
std::string describe_store(const Launch& launch);

/// What a libtorch exception says, in one line. NCCL's reason stands further below, after "Last error:".
std::string first_line(const std::exception& error);

}  // namespace adept::dist
