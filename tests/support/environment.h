// Environment variables, for tests of what depends on them.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

namespace adept::test {

/// Has a variable set, or removed, and gives it back as it was.
class ScopedVariable {
 public:
  explicit ScopedVariable(const char* name, const std::optional<std::string>& value = std::nullopt) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~ScopedVariable() { set(before_); }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

  void set(const std::optional<std::string>& value) const {
    if (value)
      ::setenv(name_, value->c_str(), 1);
    else
      ::unsetenv(name_);
  }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace adept::test
