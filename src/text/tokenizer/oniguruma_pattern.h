// Oniguruma regexes, which tokenizer.json holds, as PCRE2 regexes.
#pragma once

#include <string>
#include <string_view>

namespace moraine {

// A PCRE2 pattern (to be compiled with UTF and UCP) that matches what `pattern` matches in Oniguruma with Unicode 16:
// \s, \w, \d and \p{…} are spelled out where the engines or their Unicode versions differ. Throws an input error
// without a place (at_place.h) on syntax whose meaning differs and that no byte-level tokenizer needs: sets in sets,
// back-references, \b, ….
std::string pcre2_pattern(std::string_view pattern);

}  // namespace moraine
