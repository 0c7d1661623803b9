#include "text/chat/chat_message.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

std::string content_text(const OrderedJson& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    const char* type = content.is_binary() ? "number" : content.type_name();
    throw row_error(fmt::format("content is of type {}, not text", type),
                    content.is_object() ? "write it as a JSON string" : "");
  }
  std::string joined;
  for (const OrderedJson& part : content) {
    const OrderedJson* text = part.is_object() ? find_member(part, "text") : nullptr;
    const OrderedJson* type = part.is_object() ? find_member(part, "type") : nullptr;
    if (text == nullptr || !text->is_string() || (type != nullptr && *type != "text")) {
      throw row_error("a part of content is not text",
                      "parts are {\"type\": \"text\", \"text\": …}; no images or audio");
    }
    joined += text->get_ref<const std::string&>();
  }
  return joined;
}

// An assistant's thinking, which has two keys in use. nullopt when it has none of its own; a reasoning_content of "" is
// one, as in the released templates.
std::optional<std::string> read_reasoning(const OrderedJson& json) {
  std::optional<std::string> thinking;
  for (const char* key : {"reasoning_content", "reasoning"}) {
    const OrderedJson* value = find_member(json, key);
    if (value == nullptr) continue;
    if (!value->is_string()) throw row_error(fmt::format("{} is not text", key));
    const std::string& text = value->get_ref<const std::string&>();
    const bool is_second = std::string_view(key) == "reasoning";
    if (is_second && text.empty()) continue;
    if (is_second && !thinking.value_or("").empty() && *thinking != text)
      throw row_error("reasoning_content and reasoning differ", "give one of them");
    thinking = text;
  }
  return thinking;
}

ToolCall read_tool_call(const OrderedJson& json, Arguments needed) {
  static const std::string kShape = "a tool call is {\"function\": {\"name\": …, \"arguments\": {…}}}";
  if (!json.is_object()) throw row_error("a tool call is not an object", kShape);
  const OrderedJson* inner = find_member(json, "function");
  const OrderedJson& call = inner != nullptr ? *inner : json;
  const OrderedJson* name = call.is_object() ? find_member(call, "name") : nullptr;
  if (name == nullptr || !name->is_string()) throw row_error("a tool call without a name", kShape);
  auto arguments = call.find("arguments");
  if (arguments != call.end()) return {name->get<std::string>(), *arguments};
  if (needed == Arguments::kRequired) throw row_error("a tool call without arguments", kShape);
  return {name->get<std::string>(), OrderedJson::object()};
}

ChatMessage read_message(const OrderedJson& json, const std::vector<std::string>& roles, Arguments needed) {
  if (!json.is_object()) throw row_error("not an object", "messages are {\"role\": …, \"content\": …}");
  const OrderedJson* role = find_member(json, "role");
  if (role == nullptr || !role->is_string()) throw row_error("no role", "messages are {\"role\": …, \"content\": …}");
  ChatMessage message;
  message.role = role->get<std::string>();
  if (std::find(roles.begin(), roles.end(), message.role) == roles.end()) {
    throw row_error("unknown role " + quoted_for_error(message.role), "roles: " + join_words(roles));
  }
  const OrderedJson* content = find_member(json, "content");
  if (content != nullptr) message.content = content_text(*content);
  if (message.role == "assistant") {
    message.reasoning_content = read_reasoning(json);
    const OrderedJson* calls = find_member(json, "tool_calls");
    if (calls != nullptr) {
      if (!calls->is_array()) throw row_error("tool_calls is not a list");
      for (const OrderedJson& call : *calls) message.tool_calls.push_back(read_tool_call(call, needed));
    }
  }
  message.is_trained = read_train_flag(json);
  if (content == nullptr && message.tool_calls.empty() && !message.reasoning_content) {
    throw row_error("no content", "an empty one is \"\"");
  }
  return message;
}

}  // namespace

const OrderedJson* find_member(const OrderedJson& object, const char* key) {
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::vector<ChatMessage> read_chat_messages(const OrderedJson& messages, const std::vector<std::string>& roles,
                                            Arguments needed) {
  if (!messages.is_array()) throw row_error("messages is not a list");
  if (messages.empty()) throw row_error("no messages");
  std::vector<ChatMessage> result;
  result.reserve(messages.size());
  for (const OrderedJson& message : messages) {
    const std::string place = fmt::format("messages[{}]", result.size());
    result.push_back(at_place(place, [&] { return read_message(message, roles, needed); }));
  }
  return result;
}

bool read_train_flag(const OrderedJson& message) {
  std::optional<bool> trained;
  for (const char* key : {"weight", "train", "loss"}) {
    const OrderedJson* flag = find_member(message, key);
    if (flag == nullptr) continue;
    const bool is_weight = std::string_view(key) == "weight";
    if (is_weight ? *flag != 0 && *flag != 1 : !flag->is_boolean()) {
      throw row_error(fmt::format("'{}' is not {}", key, is_weight ? "0 or 1" : "true or false"),
                      "1 or true trains an assistant's message, 0 or false leaves it out");
    }
    const bool value = is_weight ? *flag == 1 : flag->get<bool>();
    if (trained.value_or(value) != value) throw row_error("weight, train and loss contradict each other");
    trained = value;
  }
  if (trained.value_or(false) && message.value("role", OrderedJson()) != "assistant") {
    throw row_error("a message that is not an assistant's cannot be trained by itself",
                    "leave the flag out; data.loss_on: all trains every token");
  }
  return trained.value_or(true);
}

Error message_error(size_t index, const std::string& what, const std::string& hint) {
  return input_error(fmt::format("messages[{}]", index), what, hint);
}

void check_tool_results(const std::vector<ChatMessage>& messages, std::string_view call_mark) {
  bool called = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role != "tool") {
      called = message.role == "assistant" &&
               (!message.tool_calls.empty() || message.content.find(call_mark) != std::string::npos);
    } else if (!called) {
      throw message_error(i, "a tool's result without a call before it",
                          "the assistant's message before it has tool_calls");
    }
  }
}

void check_tools(const OrderedJson& tools) {
  if (tools.is_null()) return;
  if (!tools.is_array()) throw row_error("tools is not a list");
  for (const OrderedJson& tool : tools) {
    if (!tool.is_object()) throw row_error("a tool is not an object");
  }
}

}  // namespace moraine
