// The control tokens of DeepSeek-V4's chat format. Each is one token of the released tokenizer; here they are text.
#pragma once

#include <string_view>

namespace moraine::deepseek_v4 {

inline constexpr std::string_view kBeginOfSentence = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEndOfSentence = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kUser = "<｜User｜>";
inline constexpr std::string_view kAssistant = "<｜Assistant｜>";
inline constexpr std::string_view kLatestReminder = "<｜latest_reminder｜>";
inline constexpr std::string_view kThinkBegin = "<think>";
inline constexpr std::string_view kThinkEnd = "</think>";
inline constexpr std::string_view kDsml = "｜DSML｜";  // inside the tags of tool calls

// How an answer begins: with its thinking, or after a closed thinking block.
enum class ThinkingMode { kChat, kThinking };

}  // namespace moraine::deepseek_v4
