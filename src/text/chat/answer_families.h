// The answers of Llama, Mistral, DeepSeek-V3, Gemma 4 and Command (see answer_syntaxes).
#pragma once

#include <string_view>

#include "text/chat/answer_syntax.h"

namespace moraine {

OrderedJson parse_llama3(std::string_view answer, const AnswerFrame& frame);
OrderedJson parse_llama4(std::string_view answer, const AnswerFrame& frame);
OrderedJson parse_mistral(std::string_view answer, const AnswerFrame& frame);
OrderedJson parse_deepseek_v3(std::string_view answer, const AnswerFrame& frame);
OrderedJson parse_deepseek_v3_1(std::string_view answer, const AnswerFrame& frame);
OrderedJson parse_gemma4(std::string_view answer, const AnswerFrame& frame);
OrderedJson parse_command(std::string_view answer, const AnswerFrame& frame);

}  // namespace moraine
