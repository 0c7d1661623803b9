// Text in HTML pages that are well-formed XML too.
#pragma once

#include <string>
#include <string_view>

namespace moraine {

// `text` so that it stands in an element or a quoted attribute as it is, whatever it holds: markup is escaped; bytes
// that are no UTF-8 and characters that XML does not allow become U+FFFD.
std::string escape_html(std::string_view text);

}  // namespace moraine
