// JSON text exactly as the released chat templates print it.
#pragma once

#include <string>

#include "base/json.h"

namespace moraine {

// Python's json.dumps(value, ensure_ascii=False): what `tojson` does in chat templates. Keys in the order they came,
// ", " and ": " between, floats as Python's repr.
std::string to_python_json(const OrderedJson& value);

// Python's str(value), what `string` does in chat templates: text as it is, True, False, None, numbers; lists and
// objects are not for it.
std::string to_python_str(const OrderedJson& value);

// Text from a data file in an error: in single quotes, control characters escaped, cut when long, so that an error
// stays one short line.
std::string quoted_for_error(const std::string& text);

}  // namespace moraine
