#include "text/tokenizer/input_notes.h"

#include <mutex>
#include <set>

#include "base/log.h"

namespace moraine {
namespace {

std::mutex mutex;
std::set<std::string> said;
bool silent_notes = false;

}  // namespace

void note_about_input(const std::string& line) {
  std::lock_guard lock(mutex);
  if (!silent_notes && said.insert(line).second) log_warning(line);
}

void silence_input_notes() {
  std::lock_guard lock(mutex);
  silent_notes = true;
}

}  // namespace moraine
