#include "formats/html.h"

#include <cstdint>

#include "base/text.h"

namespace moraine {
namespace {

constexpr const char kReplacement[] = "\xEF\xBF\xBD";

// Bytes of the character that `text` begins with; 0 when it is none.
size_t character_size(std::string_view text) {
  const auto lead = static_cast<uint8_t>(text.front());
  const size_t size = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return size <= text.size() && is_utf8(text.substr(0, size)) ? size : 0;
}

// What XML 1.0 has a character for: no controls but tab and line ends, neither U+FFFE nor U+FFFF.
bool is_xml_character(std::string_view character) {
  const auto first = static_cast<uint8_t>(character.front());
  if (character.size() == 1) return (first >= 0x20 && first != 0x7F) || first == '\t' || first == '\n' || first == '\r';
  return character != "\xEF\xBF\xBE" && character != "\xEF\xBF\xBF";
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  while (!text.empty()) {
    const size_t size = character_size(text);
    const std::string_view character = text.substr(0, size);
    text.remove_prefix(size == 0 ? 1 : size);
    if (size == 0 || !is_xml_character(character)) {
      escaped += kReplacement;
    } else if (character == "&") {
      escaped += "&amp;";
    } else if (character == "<") {
      escaped += "&lt;";
    } else if (character == ">") {
      escaped += "&gt;";
    } else if (character == "\"") {
      escaped += "&quot;";
    } else if (character == "'") {
      escaped += "&#39;";
    } else {
      escaped += character;
    }
  }
  return escaped;
}

}  // namespace moraine
