#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace moraine {

void assertion_failed(const char* condition, const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "moraine: error: internal: %s (%s, %s:%d; please report this)\n", message.c_str(), condition, file,
               line);
  std::abort();
}

}  // namespace moraine
