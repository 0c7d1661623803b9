#include "text/chat/chat_turns.h"

#include <utility>

#include "base/error.h"
#include "text/chat/chat_message.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

OrderedJson first_messages(const OrderedJson& messages, size_t count) {
  OrderedJson first = OrderedJson::array();
  for (size_t i = 0; i < count; ++i) first.push_back(messages[i]);
  return first;
}

// "" where the encoder refuses such a conversation.
std::string prompt_of_last(const ChatEncoder& encoder, const OrderedJson& messages, const OrderedJson& tools) {
  try {
    return encoder.generation_prompt(first_messages(messages, messages.size() - 1), tools);
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

ChatText only_last_turn(ChatText shown, const ChatEncoder& encoder, const OrderedJson& messages,
                        const OrderedJson& tools) {
  shown.withheld.clear();
  shown.changed_turns = 0;
  if (shown.trained.empty()) return shown;
  std::pair<size_t, size_t> turn = shown.trained.back();
  const std::string prompt = prompt_of_last(encoder, messages, tools);
  if (!prompt.empty() && shown.text.starts_with(prompt) && prompt.size() <= turn.second) {
    turn.first = prompt.size();
  } else {
    shown.changed_turns = 1;
  }
  shown.trained = {turn};
  return shown;
}

std::vector<AssistantTurn> each_turn(const ChatEncoder& encoder, const OrderedJson& messages, const OrderedJson& tools,
                                     bool only_last) {
  if (!messages.is_array()) throw row_error("messages is not a list");
  std::vector<size_t> turns;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) throw message_error(i, "not an object", "messages are {\"role\": …, \"content\": …}");
    if (messages[i].value("role", OrderedJson()) == "assistant") turns.push_back(i);
  }
  if (only_last && turns.size() > 1) turns.erase(turns.begin(), turns.end() - 1);
  std::vector<AssistantTurn> made;
  for (size_t i : turns) {
    if (!read_train_flag(messages[i])) continue;
    AssistantTurn& turn = made.emplace_back();
    turn.messages = first_messages(messages, i + 1);
    turn.text = encoder.turn_text(turn.messages, tools);
  }
  return made;
}

}  // namespace moraine
