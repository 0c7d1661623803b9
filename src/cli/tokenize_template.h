// moraine tokenize --chat-template: conversations through a template's own text.
#pragma once

#include "cli/cli.h"

namespace moraine {

// Prints a row for each of --messages: its text, what the assistant wrote of it, ids and mask with --model; a row that
// the template refuses, or whose turns are not certain, is a row with an error. Throws input errors on the template,
// its options and a file that cannot be read.
void tokenize_by_template(const CommandArgs& args);

}  // namespace moraine
