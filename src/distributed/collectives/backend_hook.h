// Where tests stand between this program and its backends.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <functional>
#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace moraine {

// From here on BackendFactory::make gives what `hook` makes of each of Gloo's backends. For tests alone, before the
// first group.
using BackendHook = std::function<c10::intrusive_ptr<c10d::Backend>(c10::intrusive_ptr<c10d::Backend>)>;
void set_backend_hook(BackendHook hook);

}  // namespace moraine
