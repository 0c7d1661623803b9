// A short name for a long input, to tell whether two ranks were given the same.
#pragma once

#include <string>
#include <string_view>

namespace moraine {

// XXH3-128 as 32 hexadecimal digits.
std::string hash_text(std::string_view text);

}  // namespace moraine
