// Signals, for tests.
#pragma once

namespace adept::detail {

/// As if no signal had arrived: a test goes on after one.
void forget_signal();

}  // namespace adept::detail
