// Python's literals, which some chat templates print in place of JSON.
#pragma once

#include <optional>
#include <string_view>

#include "base/json.h"

namespace moraine {

// The value of `text` as Python's repr writes it: None, True, False, numbers, strings in either quotes, lists, tuples
// (as lists), dicts with keys of text. nullopt for everything else, and for nesting deeper than 64.
std::optional<OrderedJson> python_literal(std::string_view text);

}  // namespace moraine
