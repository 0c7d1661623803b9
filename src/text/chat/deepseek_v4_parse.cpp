#include "text/chat/deepseek_v4_parse.h"

#include <fmt/format.h>

#include "base/error.h"
#include "text/chat/deepseek_v4_chat.h"
#include "text/chat/deepseek_v4_dsml.h"
#include "text/tokenizer/at_place.h"

namespace moraine::deepseek_v4 {
namespace {

void refuse_tokens(std::string_view text, const char* what) {
  for (std::string_view token : {kBeginOfSentence, kThinkBegin, kThinkEnd, kDsml}) {
    if (text.find(token) != text.npos) throw row_error(fmt::format("{} in the {}", token, what));
  }
}

}  // namespace

OrderedJson parse_completion(std::string_view completion, ThinkingMode mode, bool may_lack_end) {
  const size_t end = completion.find(kEndOfSentence);
  // A block of tool calls ends by itself: servers stop there and leave the token out.
  if (end == completion.npos && !may_lack_end && !completion.ends_with(kCallsEnd))
    throw row_error(
        fmt::format("no {} at the end", kEndOfSentence),
        "only a whole block of tool calls may do without it; --parse-without-eos takes answers that lack it");
  if (end != completion.npos && end + kEndOfSentence.size() != completion.size())
    throw row_error(fmt::format("text after {}", kEndOfSentence));
  std::string_view rest = completion.substr(0, end), reasoning;
  if (mode == ThinkingMode::kThinking) {
    const size_t thought = rest.find(kThinkEnd);
    if (thought == rest.npos) throw row_error(fmt::format("no {} after the thinking", kThinkEnd));
    reasoning = rest.substr(0, thought);
    rest.remove_prefix(thought + kThinkEnd.size());
    refuse_tokens(reasoning, "thinking");
  }
  const size_t calls_at = rest.find(kCallsBegin);
  const std::string_view content = rest.substr(0, calls_at);
  refuse_tokens(content, "content");
  OrderedJson calls = OrderedJson::array();
  if (calls_at != rest.npos) calls = read_calls(rest.substr(calls_at + kCallsBegin.size()));
  return {
      {"role", "assistant"}, {"content", content}, {"reasoning_content", reasoning}, {"tool_calls", std::move(calls)}};
}

CompletionParser make_parser(const Json& options, const OrderedJson& row, bool may_lack_end) {
  ThinkingMode mode = read_deepseek_v4_options(options).thinking_mode;
  if (const auto own = row.find("thinking_mode"); own != row.end() && !own->is_null()) {
    if (*own != "chat" && *own != "thinking") throw row_error("thinking_mode is not chat or thinking");
    mode = *own == "chat" ? ThinkingMode::kChat : ThinkingMode::kThinking;
  }
  return [mode, may_lack_end](std::string_view completion) { return parse_completion(completion, mode, may_lack_end); };
}

}  // namespace moraine::deepseek_v4
