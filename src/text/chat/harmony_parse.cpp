#include "text/chat/harmony_parse.h"

#include <fmt/format.h>

#include <string>

#include "base/error.h"
#include "text/chat/answer_text.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

// The head of a message: "<|channel|>commentary to=functions.f <|constrain|>json", the recipient in front or behind.
struct HarmonyHead {
  std::string_view channel, recipient;
};

HarmonyHead read_head(std::string_view text) {
  const auto word_behind = [&](std::string_view mark) -> std::string_view {
    const size_t at = text.find(mark);
    if (at == text.npos) return {};
    const std::string_view behind = text.substr(at + mark.size());
    return behind.substr(0, behind.find_first_of(" <\n"));
  };
  const HarmonyHead head{word_behind("<|channel|>"), word_behind("to=")};
  if (head.channel != "analysis" && head.channel != "commentary" && head.channel != "final")
    throw row_error("a message in no known channel: " + quoted_for_error(std::string(text)));
  return head;
}

void join(std::string& text, std::string_view more) {
  if (!text.empty()) text += "\n\n";
  text += more;
}

}  // namespace

OrderedJson parse_harmony(std::string_view answer, const AnswerFrame& frame) {
  std::string reasoning, content;
  OrderedJson calls = OrderedJson::array();
  bool is_ended = false;
  AnswerCursor cursor(answer);
  for (bool first = true; first || !cursor.at_end(); first = false) {
    if (is_ended) cursor.refuse("text after the end of the answer");
    if (!first) cursor.expect("<|start|>assistant", "expected a message of the assistant");
    const HarmonyHead head = read_head(cursor.take_until("<|message|>", "a message without <|message|>"));
    const std::string_view rest = cursor.rest();
    size_t end = rest.npos;
    std::string_view token;
    for (std::string_view mark : {"<|end|>", "<|return|>", "<|call|>"}) {
      const size_t at = rest.find(mark);
      if (at < end) {
        end = at;
        token = mark;
      }
    }
    const std::string_view body = rest.substr(0, end);
    for (std::string_view mark : {"<|start|>", "<|channel|>", "<|message|>"}) {
      if (body.find(mark) != body.npos) throw row_error(fmt::format("{} in a message", mark));
    }
    cursor.take(body);
    cursor.take(token);
    is_ended = token == "<|return|>" || token == "<|call|>";
    if (!head.recipient.empty()) {
      constexpr std::string_view kPrefix = "functions.";
      if (!head.recipient.starts_with(kPrefix)) {
        throw row_error(fmt::format("a call of {}, which is no function of the tools",
                                    quoted_for_error(std::string(head.recipient))));
      }
      if (token == "<|return|>") throw row_error("a call that ends with <|return|>");
      calls.push_back(tool_call(head.recipient.substr(kPrefix.size()), body));
      is_ended |= token.empty();  // a whole call may lack its end
    } else if (head.channel == "analysis") {
      join(reasoning, body);
    } else {
      join(content, body);
      is_ended |= head.channel == "final" && token == "<|end|>";
    }
  }
  AnswerFrame harmony = frame;
  harmony.end_of_turn = "<|return|>";
  check_end(is_ended, harmony, calls);
  return answer_message(content, reasoning, std::move(calls));
}

}  // namespace moraine
