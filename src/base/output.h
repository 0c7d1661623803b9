// Results: what a command was asked for, on stdout. Unlike log lines they must arrive.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace moraine {

// Writes `text` as it is, flushed. When the reader of a pipe is gone (`| head`), nobody wants the rest: the process
// ends by SIGPIPE, without a word and without running destructors. Throws a run error when it cannot be written for
// another reason.
void print_result(std::string_view text);

// One line of JSON. Names of files that are no UTF-8 have U+FFFD in place of what is none.
void print_json(const OrderedJson& json);

// Text that keeps its lines and tabs, for a terminal: other control characters, and broken UTF-8, are escaped as by
// one_line.
std::string for_terminal(std::string_view text);

}  // namespace moraine
