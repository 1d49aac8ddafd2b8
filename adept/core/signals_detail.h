// Signals, for tests.
#pragma once

namespace adept::detail {

/// Clears the signal, so a test can continue.
void forget_signal();

}  // namespace adept::detail
