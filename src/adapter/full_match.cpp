#include "adapter/full_match.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "base/error.h"
#include "base/text.h"

namespace moraine {
namespace {

std::string pcre2_message(int error) {
  PCRE2_UCHAR message[200];
  pcre2_get_error_message(error, message, sizeof message);
  return reinterpret_cast<char*>(message);
}

}  // namespace

FullMatch::FullMatch(std::string pattern, std::string where) : pattern_(std::move(pattern)), where_(std::move(where)) {
  int error;
  PCRE2_SIZE offset;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern_.data()), pattern_.size(),
                                   PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &error, &offset, nullptr);
  if (!code) {
    throw input_error(where_, fmt::format("regular expression {}: {} at character {}", quote_text(pattern_),
                                          pcre2_message(error), offset));
  }
  code_.reset(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
}

bool FullMatch::operator()(const std::string& text) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
      pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  const int found =
      pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, match.get(), nullptr);
  if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
    throw input_error(
        where_,
        fmt::format("regular expression {} on {}: {}", quote_text(pattern_), quote_text(text), pcre2_message(found)),
        "simplify it");
  }
  return found > 0;
}

}  // namespace moraine
