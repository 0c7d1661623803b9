// Qwen3's chat formats, equal to the chat_template.jinja released with Qwen3 and with Qwen3-*-Instruct-2507.
#pragma once

#include <memory>

#include "data/chat_template.h"

namespace moraine {

enum class QwenThinking {
  kOn,    // qwen3
  kOff,   // qwen3 with enable_thinking: false: the generation prompt holds an empty thinking block
  kNone,  // qwen3_instruct_2507: the format knows no thinking; reasoning_content is not rendered
};

std::unique_ptr<ChatTemplate> make_qwen3_chat(QwenThinking thinking);

}  // namespace moraine
