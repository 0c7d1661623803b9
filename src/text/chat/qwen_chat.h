// Qwen3's chat formats, equal to the chat_template.jinja released with Qwen3 and with Qwen3-*-Instruct-2507.
#pragma once

#include <memory>
#include <string_view>

#include "text/chat/chat_encoder.h"

namespace moraine {

enum class QwenThinking {
  kOn,    // qwen3
  kOff,   // qwen3 with enable_thinking: false: the generation prompt holds an empty thinking block
  kNone,  // qwen3_instruct_2507: the format knows no thinking; reasoning_content is not rendered
};

std::unique_ptr<ChatEncoder> make_qwen3_chat(QwenThinking thinking);

// Whether a template that is not a released one looks most like that of the format, by the words in it.
bool resembles_qwen3(std::string_view jinja);
bool resembles_qwen3_instruct_2507(std::string_view jinja);

}  // namespace moraine
