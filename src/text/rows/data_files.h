// Which files data.train, data.eval and tokenize's arguments mean.
#pragma once

#include <string>
#include <vector>

namespace moraine {

// Each name is a file, a folder (its .jsonl and .json files and those compressed as .gz, sorted by name; folders in it
// are not entered) or a pattern of glob(7) (its matches, sorted). A file whose own name holds *, ? or [ is that file.
// Throws an input error that names what is not there, a folder without such files and a pattern that matches nothing. A
// file named twice stays twice, with a line that says so (input_notes.h).
std::vector<std::string> find_data_files(const std::vector<std::string>& names);

}  // namespace moraine
