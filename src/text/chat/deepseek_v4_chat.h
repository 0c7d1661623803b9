// DeepSeek-V4's chat format, equal to the encoder released with it (the checkpoints ship no jinja template).
#pragma once

#include <filesystem>
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
  std::string_view effort;    // with thinking: the instruction to reason at length that comes first; "": none
};

// thinking_mode: chat or thinking; drop_thinking: true or false; reasoning_effort: null (no word), or a level of
// reasoning_effort_profile:
//
//   preview    V4-Flash and V4-Pro as first released    high (no word), max
//   official   from V4-Flash-0731 and V4-Pro-0813 on    low (no word), high (the max of preview), max (a stronger word)
//
// Throws input errors that name the option in data.template_options, also for a level without a profile.
DeepseekV4Options read_deepseek_v4_options(const Json& options);

// {"reasoning_effort_profile": …} as the checkpoint's own encoder, encoding/encoding_dsv4.py, has it: nothing else in a
// checkpoint tells the releases apart. {} without that file, or with one that has neither.
Json deepseek_v4_checkpoint_options(const std::filesystem::path& model_folder);

std::unique_ptr<ChatEncoder> make_deepseek_v4_chat(const DeepseekV4Options& options);

}  // namespace moraine
