// DeepSeek-V4's chat format, equal to the encoder released with it (the checkpoints ship no jinja template).
#pragma once

#include <memory>

#include "text/chat/chat_encoder.h"
#include "text/chat/deepseek_v4_tokens.h"

namespace moraine {

// What is rendered for training is what is rendered for inference. Trained are the assistant's turns that were rendered
// as they were said: with thinking and drop_thinking only those after the last user's turn, because earlier ones have
// lost their thinking, unless there are tools, which keep all thinking.
struct DeepseekV4Options {
  deepseek_v4::ThinkingMode thinking_mode = deepseek_v4::ThinkingMode::kChat;
  bool drop_thinking = true;  // with thinking: turns before the last user's lose it, developers' messages are left out
  bool max_effort = false;    // with thinking: the instruction to reason at length comes first
};

// thinking_mode: chat or thinking; drop_thinking: true or false; reasoning_effort: max, high or null (both no word).
// Throws input errors that name the option in data.template_options.
DeepseekV4Options read_deepseek_v4_options(const Json& options);

std::unique_ptr<ChatEncoder> make_deepseek_v4_chat(const DeepseekV4Options& options);

}  // namespace moraine
