#include "base/output.h"

#include <signal.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/process.h"
#include "base/text.h"

namespace moraine {

void print_result(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return;
  if (errno == EPIPE) end_process_by(SIGPIPE);
  throw run_error("standard output", std::string("cannot write: ") + std::strerror(errno));
}

void print_json(const OrderedJson& json) {
  print_result(json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

std::string for_terminal(std::string_view text) {
  std::string shown;
  for (;;) {
    const size_t kept = text.find_first_of("\n\t");
    shown += one_line(text.substr(0, kept), std::numeric_limits<size_t>::max());
    if (kept == text.npos) return shown;
    shown += text[kept];
    text.remove_prefix(kept + 1);
  }
}

}  // namespace moraine
