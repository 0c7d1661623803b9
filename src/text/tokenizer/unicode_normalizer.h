// Unicode normalisation form C, aligned to the text it came from.
#pragma once

#include <string>
#include <string_view>

#include "text/tokenizer/alignment.h"

namespace moraine {

// The NFC form of `text` (valid UTF-8): `text` itself when it is that already, else `storage`. `alignment` gets one
// edit for each stretch that changed. Characters younger than Unicode 9.0 are left as they are, as the reference
// library does.
std::string_view normalize_nfc(std::string_view text, std::string& storage, Alignment& alignment);

}  // namespace moraine
