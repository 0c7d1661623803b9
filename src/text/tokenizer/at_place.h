// Errors that gain their place on the way up: what reads a row or a message says what is wrong with it, and whoever
// knows which one it is adds that.
#pragma once

#include <string>
#include <utility>

#include "base/error.h"

namespace moraine {

// An input error without a place, which at_place adds.
inline Error row_error(std::string what, std::string hint = "") {
  return input_error("", std::move(what), std::move(hint));
}

// Calls `call`. An error that it throws is thrown on as one of `where`, in front of the place that it names itself.
template <typename F>
decltype(auto) at_place(const std::string& where, F&& call) {
  try {
    return std::forward<F>(call)();
  } catch (const Error& error) {
    throw Error(error.kind, where, (error.where.empty() ? "" : error.where + ": ") + error.message, error.hint);
  }
}

}  // namespace moraine
