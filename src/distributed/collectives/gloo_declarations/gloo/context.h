// Why these files exist: a torch wheel ships c10d's headers but not those of Gloo, which they include. libtorch itself
// exports everything of ProcessGroupGloo that moraine calls, so it is enough to declare the handful of Gloo types which
// ProcessGroupGloo.hpp names. Nothing here is ever constructed, derived from or laid out by moraine: objects of these
// types are made inside libtorch and only travel through moraine as pointers.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  std::chrono::milliseconds getTimeout() const;
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
