#include "base/error.h"

#include <cstdio>
#include <cstdlib>

#include "base/text.h"

namespace moraine {

Error::Error(ErrorKind kind, std::string where, std::string what, std::string hint)
    : kind(kind), where(one_line(where, 1000)), message(one_line(what, 3000)), hint(one_line(hint, 1000)) {
  line_ = this->where + ": " + message + (this->hint.empty() ? "" : " (" + this->hint + ")");
}

void assertion_failed(const char* condition, const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "moraine: error: internal: %s (%s, %s:%d; please report this)\n",
               one_line(message, 3000).c_str(), condition, file, line);
  std::abort();
}

}  // namespace moraine
