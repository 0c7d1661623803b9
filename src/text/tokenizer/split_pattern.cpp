#include "text/tokenizer/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <new>

#include "base/error.h"
#include "text/tokenizer/at_place.h"
#include "text/tokenizer/oniguruma_pattern.h"

namespace moraine {

struct MatchState::Impl {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, 64 << 20, nullptr);

  Impl() {
    if (!data || !context || !stack) throw std::bad_alloc();
    pcre2_jit_stack_assign(context, nullptr, stack);
    pcre2_set_match_limit(context, 1u << 31);  // long runs of one kind of character backtrack often, but only linearly
  }
  ~Impl() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
};

MatchState::MatchState() : impl_(std::make_unique<Impl>()) {}
MatchState::~MatchState() = default;

struct SplitPattern::Impl {
  pcre2_code* code = nullptr;
  bool jit = false;
  std::string shown;  // the pattern as the file has it

  ~Impl() { pcre2_code_free(code); }
};

SplitPattern::SplitPattern(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SplitPattern::SplitPattern(SplitPattern&&) noexcept = default;
SplitPattern& SplitPattern::operator=(SplitPattern&&) noexcept = default;
SplitPattern::~SplitPattern() = default;

SplitPattern SplitPattern::regex(std::string_view pattern) {
  return compile(pcre2_pattern(pattern), PCRE2_UCP, pattern);
}

SplitPattern SplitPattern::literal(std::string_view text) { return compile(std::string(text), PCRE2_LITERAL, text); }

SplitPattern SplitPattern::compile(const std::string& pattern, uint32_t options, std::string_view shown) {
  auto impl = std::make_unique<Impl>();
  impl->shown = shown;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  impl->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options | PCRE2_UTF, &error,
                             &error_offset, context);
  pcre2_compile_context_free(context);
  if (!impl->code) {
    PCRE2_UCHAR message[256] = "";
    pcre2_get_error_message(error, message, sizeof message);
    throw row_error(fmt::format("the regex {} is malformed: {}", shown, reinterpret_cast<char*>(message)));
  }
  // Where the system forbids writable code, matching falls back to the interpreter.
  impl->jit = pcre2_jit_compile(impl->code, PCRE2_JIT_COMPLETE) == 0;
  return SplitPattern(std::move(impl));
}

bool SplitPattern::find(std::string_view text, size_t from, MatchState& state, std::pair<size_t, size_t>* match) const {
  auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  MatchState::Impl& m = *state.impl_;
  int result = impl_->jit ? pcre2_jit_match(impl_->code, subject, text.size(), from, 0, m.data, m.context)
                          : pcre2_match(impl_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, m.data, m.context);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    PCRE2_UCHAR message[256] = "";
    pcre2_get_error_message(result, message, sizeof message);
    throw run_error("tokenizer", fmt::format("the regex {} could not be matched: {}", impl_->shown,
                                             reinterpret_cast<char*>(message)));
  }
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(m.data);
  *match = {bounds[0], bounds[1]};
  return true;
}

SplitPattern read_split_pattern(const JsonField& field) {
  JsonField regex = field["Regex"], literal = field["String"];
  if (regex.is_null() == literal.is_null()) field.refuse("must hold Regex or String");
  return at_place(field.file() + ": " + field.path(), [&] {
    return regex.is_null() ? SplitPattern::literal(literal.string()) : SplitPattern::regex(regex.string());
  });
}

}  // namespace moraine
