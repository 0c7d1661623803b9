// What a user should know of files that are read: a line each, once a process.
#pragma once

#include <string>

namespace moraine {

// log_warning, unless the same line was said before or silence_input_notes was called. Safe from several threads.
void note_about_input(const std::string& line);
// For ranks other than the first, which read the same files.
void silence_input_notes();

}  // namespace moraine
