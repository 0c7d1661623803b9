// Qwen3.5's chat format, equal to the chat_template.jinja released with it: ChatML turns as Qwen3's, calls as XML with
// one block per parameter, every text without white space at its ends.
#pragma once

#include <memory>

#include "text/chat/chat_encoder.h"
#include "text/chat/qwen_chat.h"

namespace moraine {

// kOn: the generation prompt opens a thinking block; kOff: it holds an empty one. There is no kNone.
// Beyond what read_chat_messages refuses, the format has no place for a conversation without a user's message, a system
// message that is not the first, a tool's result that no call came before, and arguments that are not an object (nor
// its JSON text). A call that stands in an assistant's content as text is a call.
std::unique_ptr<ChatEncoder> make_qwen3_5_chat(QwenThinking thinking);

// Whether a template that is not a released one looks most like that of the format, by the words in it.
bool resembles_qwen3_5(std::string_view jinja);

}  // namespace moraine
