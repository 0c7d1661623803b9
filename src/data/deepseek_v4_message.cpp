#include "data/deepseek_v4_message.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "data/chat_message.h"
#include "data/tojson.h"

namespace moraine::deepseek_v4 {
namespace {

constexpr const char* kCallShape = "a tool call is {\"function\": {\"name\": …, \"arguments\": {…}}}";

// Integers beyond 64 bits are held as their digits.
const char* type_of(const OrderedJson& value) { return value.is_binary() ? "number" : value.type_name(); }

std::string optional_text(const OrderedJson& object, const char* key, const std::string& place) {
  const OrderedJson* value = find_member(object, key);
  if (value == nullptr) return "";
  if (!value->is_string()) throw input_error(place, fmt::format("{} is of type {}, not text", key, type_of(*value)));
  return value->get<std::string>();
}

bool optional_flag(const OrderedJson& object, const char* key, const std::string& place) {
  const OrderedJson* value = find_member(object, key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) throw input_error(place, fmt::format("{} is not true or false", key));
  return value->get<bool>();
}

// A list with anything in it; nullptr when missing, null or empty.
const OrderedJson* optional_list(const OrderedJson& object, const char* key, const std::string& place) {
  const OrderedJson* value = find_member(object, key);
  if (value == nullptr) return nullptr;
  if (!value->is_array()) throw input_error(place, fmt::format("{} is not a list", key));
  return value->empty() ? nullptr : value;
}

// The text of {"type": "text", "text": …}; nullptr for other parts.
const OrderedJson* text_of_part(const OrderedJson& part) {
  if (!part.is_object()) return nullptr;
  const OrderedJson *type = find_member(part, "type"), *text = find_member(part, "text");
  return text != nullptr && text->is_string() && (type == nullptr || *type == "text") ? text : nullptr;
}

// Text, or a list of texts.
std::string content_text(const OrderedJson& content, const std::string& place) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    throw input_error(place, fmt::format("content is of type {}, not text", type_of(content)),
                      content.is_object() ? "write it as a JSON string" : "");
  }
  std::string joined;
  for (const OrderedJson& part : content) {
    const OrderedJson* text = text_of_part(part);
    if (text == nullptr) {
      throw input_error(place, "a part of content is not text",
                        "parts are {\"type\": \"text\", \"text\": …}; no images or audio");
    }
    if (&part != &content.front()) joined += "\n\n";
    joined += text->get_ref<const std::string&>();
  }
  return joined;
}

std::vector<UserBlock> user_blocks(const OrderedJson& content, const std::string& place) {
  if (!content.is_array()) return {{content_text(content, place), false, ""}};
  std::vector<UserBlock> blocks;
  for (const OrderedJson& part : content) {
    const OrderedJson* type = part.is_object() ? find_member(part, "type") : nullptr;
    if (type != nullptr && *type == "tool_result") {
      const OrderedJson* result = find_member(part, "content");
      if (result == nullptr) throw input_error(place, "a tool_result without content");
      blocks.push_back({content_text(*result, place), true, optional_text(part, "tool_use_id", place)});
    } else if (const OrderedJson* text = text_of_part(part)) {
      blocks.push_back({text->get<std::string>(), false, ""});
    } else {
      throw input_error(place, "a part of content is neither text nor a tool_result", "no images or audio");
    }
  }
  if (blocks.empty()) throw input_error(place, "content is an empty list", "an empty text is \"\"");
  return blocks;
}

// Data sets hold arguments as an object or as JSON text of one.
OrderedJson call_arguments(const OrderedJson& arguments, const std::string& place) {
  OrderedJson object = arguments;
  if (arguments.is_string())
    object = parse_exact_json(arguments.get_ref<const std::string&>(), place + ": arguments");
  if (object.is_object()) return object;
  throw input_error(place, fmt::format("arguments are of type {}, not an object", type_of(object)), kCallShape);
}

Call read_call(const OrderedJson& json, const std::string& place) {
  if (!json.is_object()) throw input_error(place, "a tool call is not an object", kCallShape);
  const OrderedJson* inner = find_member(json, "function");
  const OrderedJson& function = inner != nullptr ? *inner : json;
  const OrderedJson* name = function.is_object() ? find_member(function, "name") : nullptr;
  if (name == nullptr || !name->is_string() || name->get_ref<const std::string&>().empty())
    throw input_error(place, "a tool call without a name", kCallShape);
  const OrderedJson* arguments = find_member(function, "arguments");
  if (arguments == nullptr) throw input_error(place, "a tool call without arguments", kCallShape);
  std::string id = optional_text(json, "id", place);
  if (id.empty()) id = optional_text(function, "id", place);
  const std::string& text = name->get_ref<const std::string&>();
  return {text, id, call_arguments(*arguments, place + ": call of " + quoted_for_error(text))};
}

// Both keys are in use for an assistant's thinking.
std::string read_reasoning(const OrderedJson& json, const std::string& place) {
  const std::string content = optional_text(json, "reasoning_content", place);
  const std::string reasoning = optional_text(json, "reasoning", place);
  if (!content.empty() && !reasoning.empty() && content != reasoning)
    throw input_error(place, "reasoning_content and reasoning differ", "give one of them");
  return content.empty() ? reasoning : content;
}

Role read_role(const std::string& name, const std::string& place) {
  if (name == "system") return Role::kSystem;
  if (name == "developer") return Role::kDeveloper;
  if (name == "user" || name == "tool") return Role::kUser;
  if (name == "latest_reminder") return Role::kLatestReminder;
  if (name == "assistant") return Role::kAssistant;
  throw input_error(place, "unknown role " + quoted_for_error(name),
                    "roles: system, developer, user, latest_reminder, assistant and tool");
}

std::string read_task(const OrderedJson& json, const std::string& place) {
  static const std::vector<std::string> kTasks{"action", "query", "authority", "domain", "title", "read_url"};
  const std::string task = optional_text(json, "task", place);
  if (task.empty() || std::find(kTasks.begin(), kTasks.end(), task) != kTasks.end()) return task;
  throw input_error(place, "unknown task " + quoted_for_error(task), "tasks: " + join_words(kTasks));
}

}  // namespace

std::vector<OrderedJson> read_tools(const OrderedJson& tools, const std::string& place) {
  std::vector<OrderedJson> functions;
  for (const OrderedJson& tool : tools) {
    if (!tool.is_object()) throw input_error(place, "a tool is not an object");
    const OrderedJson* function = find_member(tool, "function");
    if (function != nullptr && !function->is_object()) throw input_error(place, "a tool's function is not an object");
    functions.push_back(function != nullptr ? *function : tool);
  }
  return functions;
}

Message read_message(const OrderedJson& json, std::string place) {
  constexpr const char* kShape = "messages are {\"role\": …, \"content\": …}";
  if (!json.is_object()) throw input_error(place, "not an object", kShape);
  const OrderedJson* role = find_member(json, "role");
  if (role == nullptr || !role->is_string()) throw input_error(place, "no role", kShape);
  const bool is_tool = *role == "tool";
  Message message;
  message.role = read_role(role->get<std::string>(), place);
  message.place = std::move(place);
  const std::string& at = message.place;
  message.task = read_task(json, at);
  message.is_trained = read_train_flag(json, at);
  const OrderedJson* content = find_member(json, "content");
  bool may_lack_content = false;

  if (message.role == Role::kSystem || message.role == Role::kDeveloper) {
    if (const OrderedJson* tools = optional_list(json, "tools", at)) message.tools = read_tools(*tools, at);
    if (const OrderedJson* format = find_member(json, "response_format"); format && !format->empty()) {
      if (!format->is_object()) throw input_error(at, "response_format is not an object", "it is a JSON schema");
      message.response_format = *format;
    }
    may_lack_content = message.role == Role::kSystem && !(message.tools.empty() && message.response_format.is_null());
  } else {
    for (const char* key : {"tools", "response_format"}) {
      const OrderedJson* value = find_member(json, key);
      if (value != nullptr && !value->empty())
        throw input_error(at, fmt::format("{} are for system and developer only", key));
    }
  }
  if (message.role == Role::kAssistant) {
    message.reasoning = read_reasoning(json, at);
    if (const OrderedJson* calls = optional_list(json, "tool_calls", at))
      for (const OrderedJson& call : *calls) message.calls.push_back(read_call(call, at));
    message.wo_eos = optional_flag(json, "wo_eos", at);
    may_lack_content = !(message.calls.empty() && message.reasoning.empty());
  }
  if (content == nullptr && !may_lack_content) throw input_error(at, "no content", "an empty one is \"\"");

  if (is_tool) {
    if (!message.task.empty()) throw input_error(at, "task on the result of a tool");
    message.blocks = {{content_text(*content, at), true, optional_text(json, "tool_call_id", at)}};
  } else if (message.role == Role::kUser) {
    message.blocks = user_blocks(*content, at);
  } else if (content != nullptr) {
    message.content = content_text(*content, at);
  }
  if (message.role == Role::kDeveloper && message.content.empty()) throw input_error(at, "a developer's empty content");
  return message;
}

}  // namespace moraine::deepseek_v4
