// NaN, Infinity and -Infinity, which Python's json writes and JSON has no numbers for. The parsers of base/json.h read
// them as values that are of no type a reader asks for: they do no harm where nothing uses them, and what does refuses
// them by name.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"

namespace moraine {

// "NaN", "Infinity" or "-Infinity"; nullopt for every other value.
std::optional<std::string> not_finite_word(const Json& value);
std::optional<std::string> not_finite_word(const OrderedJson& value);

// value.dump(indent), with these words as Python writes them.
std::string dump_with_not_finite(OrderedJson value, int indent);

// One value for an error: printed in ASCII, a list or object by its type alone.
std::string value_for_error(const Json& value);

}  // namespace moraine
