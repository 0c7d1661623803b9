#include "text/chat/deepseek_v4_message.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "text/chat/chat_message.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine::deepseek_v4 {
namespace {

constexpr const char* kCallShape = "a tool call is {\"function\": {\"name\": …, \"arguments\": {…}}}";

// Integers beyond 64 bits are held as their digits.
const char* type_of(const OrderedJson& value) { return value.is_binary() ? "number" : value.type_name(); }

std::string optional_text(const OrderedJson& object, const char* key) {
  const OrderedJson* value = find_member(object, key);
  if (value == nullptr) return "";
  if (!value->is_string()) throw row_error(fmt::format("{} is of type {}, not text", key, type_of(*value)));
  return value->get<std::string>();
}

bool optional_flag(const OrderedJson& object, const char* key) {
  const OrderedJson* value = find_member(object, key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) throw row_error(fmt::format("{} is not true or false", key));
  return value->get<bool>();
}

// A list with anything in it; nullptr when missing, null or empty.
const OrderedJson* optional_list(const OrderedJson& object, const char* key) {
  const OrderedJson* value = find_member(object, key);
  if (value == nullptr) return nullptr;
  if (!value->is_array()) throw row_error(fmt::format("{} is not a list", key));
  return value->empty() ? nullptr : value;
}

// The text of {"type": "text", "text": …}; nullptr for other parts.
const OrderedJson* text_of_part(const OrderedJson& part) {
  if (!part.is_object()) return nullptr;
  const OrderedJson *type = find_member(part, "type"), *text = find_member(part, "text");
  return text != nullptr && text->is_string() && (type == nullptr || *type == "text") ? text : nullptr;
}

// Text, or a list of texts.
std::string content_text(const OrderedJson& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    throw row_error(fmt::format("content is of type {}, not text", type_of(content)),
                    content.is_object() ? "write it as a JSON string" : "");
  }
  std::string joined;
  for (const OrderedJson& part : content) {
    const OrderedJson* text = text_of_part(part);
    if (text == nullptr) {
      throw row_error("a part of content is not text",
                      "parts are {\"type\": \"text\", \"text\": …}; no images or audio");
    }
    if (&part != &content.front()) joined += "\n\n";
    joined += text->get_ref<const std::string&>();
  }
  return joined;
}

std::vector<UserBlock> user_blocks(const OrderedJson& content) {
  if (!content.is_array()) return {{content_text(content), false, ""}};
  std::vector<UserBlock> blocks;
  for (const OrderedJson& part : content) {
    const OrderedJson* type = part.is_object() ? find_member(part, "type") : nullptr;
    if (type != nullptr && *type == "tool_result") {
      const OrderedJson* result = find_member(part, "content");
      if (result == nullptr) throw row_error("a tool_result without content");
      blocks.push_back({content_text(*result), true, optional_text(part, "tool_use_id")});
    } else if (const OrderedJson* text = text_of_part(part)) {
      blocks.push_back({text->get<std::string>(), false, ""});
    } else {
      throw row_error("a part of content is neither text nor a tool_result", "no images or audio");
    }
  }
  if (blocks.empty()) throw row_error("content is an empty list", "an empty text is \"\"");
  return blocks;
}

// Data sets hold arguments as an object or as JSON text of one.
OrderedJson call_arguments(const OrderedJson& arguments) {
  OrderedJson object = arguments;
  if (arguments.is_string()) object = parse_exact_json(arguments.get_ref<const std::string&>(), "arguments");
  if (object.is_object()) return object;
  throw row_error(fmt::format("arguments are of type {}, not an object", type_of(object)), kCallShape);
}

Call read_call(const OrderedJson& json) {
  if (!json.is_object()) throw row_error("a tool call is not an object", kCallShape);
  const OrderedJson* inner = find_member(json, "function");
  const OrderedJson& function = inner != nullptr ? *inner : json;
  const OrderedJson* name = function.is_object() ? find_member(function, "name") : nullptr;
  if (name == nullptr || !name->is_string() || name->get_ref<const std::string&>().empty())
    throw row_error("a tool call without a name", kCallShape);
  const OrderedJson* arguments = find_member(function, "arguments");
  if (arguments == nullptr) throw row_error("a tool call without arguments", kCallShape);
  std::string id = optional_text(json, "id");
  if (id.empty()) id = optional_text(function, "id");
  const std::string& text = name->get_ref<const std::string&>();
  return {text, id, at_place("call of " + quoted_for_error(text), [&] { return call_arguments(*arguments); })};
}

// Both keys are in use for an assistant's thinking.
std::string read_reasoning(const OrderedJson& json) {
  const std::string content = optional_text(json, "reasoning_content");
  const std::string reasoning = optional_text(json, "reasoning");
  if (!content.empty() && !reasoning.empty() && content != reasoning)
    throw row_error("reasoning_content and reasoning differ", "give one of them");
  return content.empty() ? reasoning : content;
}

Role read_role(const std::string& name) {
  if (name == "system") return Role::kSystem;
  if (name == "developer") return Role::kDeveloper;
  if (name == "user" || name == "tool") return Role::kUser;
  if (name == "latest_reminder") return Role::kLatestReminder;
  if (name == "assistant") return Role::kAssistant;
  throw row_error("unknown role " + quoted_for_error(name),
                  "roles: system, developer, user, latest_reminder, assistant and tool");
}

std::string read_task(const OrderedJson& json) {
  static const std::vector<std::string> kTasks{"action", "query", "authority", "domain", "title", "read_url"};
  const std::string task = optional_text(json, "task");
  if (task.empty() || std::find(kTasks.begin(), kTasks.end(), task) != kTasks.end()) return task;
  throw row_error("unknown task " + quoted_for_error(task), "tasks: " + join_words(kTasks));
}

}  // namespace

std::vector<OrderedJson> read_tools(const OrderedJson& tools) {
  std::vector<OrderedJson> functions;
  for (const OrderedJson& tool : tools) {
    if (!tool.is_object()) throw row_error("a tool is not an object");
    const OrderedJson* function = find_member(tool, "function");
    if (function != nullptr && !function->is_object()) throw row_error("a tool's function is not an object");
    functions.push_back(function != nullptr ? *function : tool);
  }
  return functions;
}

Message read_message(const OrderedJson& json) {
  constexpr const char* kShape = "messages are {\"role\": …, \"content\": …}";
  if (!json.is_object()) throw row_error("not an object", kShape);
  const OrderedJson* role = find_member(json, "role");
  if (role == nullptr || !role->is_string()) throw row_error("no role", kShape);
  const bool is_tool = *role == "tool";
  Message message;
  message.role = read_role(role->get<std::string>());
  message.task = read_task(json);
  message.is_trained = read_train_flag(json);
  const OrderedJson* content = find_member(json, "content");
  bool may_lack_content = false;

  if (message.role == Role::kSystem || message.role == Role::kDeveloper) {
    if (const OrderedJson* tools = optional_list(json, "tools")) message.tools = read_tools(*tools);
    if (const OrderedJson* format = find_member(json, "response_format"); format && !format->empty()) {
      if (!format->is_object()) throw row_error("response_format is not an object", "it is a JSON schema");
      message.response_format = *format;
    }
    may_lack_content = message.role == Role::kSystem && !(message.tools.empty() && message.response_format.is_null());
  } else {
    for (const char* key : {"tools", "response_format"}) {
      const OrderedJson* value = find_member(json, key);
      if (value != nullptr && !value->empty())
        throw row_error(fmt::format("{} are for system and developer only", key));
    }
  }
  if (message.role == Role::kAssistant) {
    message.reasoning = read_reasoning(json);
    if (const OrderedJson* calls = optional_list(json, "tool_calls"))
      for (const OrderedJson& call : *calls) message.calls.push_back(read_call(call));
    message.wo_eos = optional_flag(json, "wo_eos");
    may_lack_content = !(message.calls.empty() && message.reasoning.empty());
  }
  if (content == nullptr && !may_lack_content) throw row_error("no content", "an empty one is \"\"");

  if (is_tool) {
    if (!message.task.empty()) throw row_error("task on the result of a tool");
    message.blocks = {{content_text(*content), true, optional_text(json, "tool_call_id")}};
  } else if (message.role == Role::kUser) {
    message.blocks = user_blocks(*content);
  } else if (content != nullptr) {
    message.content = content_text(*content);
  }
  if (message.role == Role::kDeveloper && message.content.empty()) throw row_error("a developer's empty content");
  return message;
}

}  // namespace moraine::deepseek_v4
