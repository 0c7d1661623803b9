// The one error type that reaches a user: a single line `WHERE: WHAT (HOW TO MEND)`.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace moraine {

// Which exit code an error ends in.
enum class ErrorKind {
  kRun = 1,    // failed while running
  kInput = 2,  // wrong usage, recipe or input
};

// A mistake that the user can mend. Broken invariants use MORAINE_ASSERT instead.
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string where, std::string what, std::string hint);
  // `WHERE: WHAT (HOW TO MEND)`: one line of a few kilobytes at most, whatever it quotes; control characters are
  // escaped.
  const char* what() const noexcept override { return line_.c_str(); }

  ErrorKind kind;
  std::string where;    // the file, recipe key or tensor
  std::string message;  // what is wrong with it
  std::string hint;     // how to mend it; may be empty

 private:
  std::string line_;
};

// throw input_error(...): exit code 2.
inline Error input_error(std::string where, std::string what, std::string hint = "") {
  return Error(ErrorKind::kInput, std::move(where), std::move(what), std::move(hint));
}
// throw run_error(...): exit code 1.
inline Error run_error(std::string where, std::string what, std::string hint = "") {
  return Error(ErrorKind::kRun, std::move(where), std::move(what), std::move(hint));
}

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line, const std::string& message);

}  // namespace moraine

// For invariants of the program, in every build type: prints the place and aborts.
#define MORAINE_ASSERT(condition, message)                                                  \
  do {                                                                                      \
    if (!(condition)) ::moraine::assertion_failed(#condition, __FILE__, __LINE__, message); \
  } while (0)
