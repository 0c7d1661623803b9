#include "data/template_detection.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/path.h"

namespace moraine {
namespace {

constexpr const char* kHowToMend =
    "say which format: data.template: qwen3, qwen3_instruct_2507, qwen3_5 or deepseek_v4";

struct Found {
  std::string jinja, where;
};

std::string string_of(const Json& json, const std::string& where) {
  if (!json.is_string()) throw input_error(where, "chat_template is not text", kHowToMend);
  return json.get<std::string>();
}

std::optional<std::string> from_tokenizer_config(const std::filesystem::path& path) {
  const Json config = read_json_file(path);
  if (!config.is_object() || !config.contains("chat_template")) return std::nullopt;
  const Json& json = config["chat_template"];
  if (json.is_null()) return std::nullopt;
  if (!json.is_array()) return string_of(json, path.string());
  for (const Json& entry : json) {
    if (entry.is_object() && entry.contains("template") &&
        (json.size() == 1 || entry.value("name", Json()) == "default")) {
      return string_of(entry["template"], path.string());
    }
  }
  throw input_error(path.string(), "chat_template is a list without a default", kHowToMend);
}

// nullopt when the folder has none.
std::optional<Found> read_template(const std::filesystem::path& folder) {
  const std::filesystem::path jinja = folder / "chat_template.jinja", config = folder / "tokenizer_config.json";
  if (path_exists(jinja)) return Found{read_text_file(jinja), jinja.string()};
  if (path_exists(config)) {
    if (auto text = from_tokenizer_config(config)) return Found{*text, config.string()};
  }
  return std::nullopt;
}

// Its checkpoints come with an encoder in Python instead of a template.
bool is_deepseek_v4(const std::filesystem::path& folder) {
  if (!path_exists(folder / "config.json")) return false;
  const Json config = read_json_file(folder / "config.json");
  return config.is_object() && config.value("model_type", Json()) == "deepseek_v4";
}

bool is_qwen3_5(std::string_view jinja) {
  const auto mentions = [&](std::string_view word) { return jinja.find(word) != jinja.npos; };
  for (const char* word :
       {"<|im_start|>", "<|im_end|>", "# Tools\\n\\nYou have access to the following functions:", "<function=",
        "<parameter=", "<IMPORTANT>", "<tool_response>", "</think>", "enable_thinking", "reasoning_content",
        "last_query_index", "render_content"}) {
    if (!mentions(word)) return false;
  }
  // Relatives that share those: successors that keep earlier thinking, and formats that tell a tool otherwise.
  for (const char* word : {"preserve_thinking", "truncate_history_thinking", "<name>", "You are "}) {
    if (mentions(word)) return false;
  }
  return true;
}

}  // namespace

std::optional<std::string> recognise_chat_template(std::string_view jinja) {
  const auto mentions = [&](std::string_view word) { return jinja.find(word) != jinja.npos; };
  if (is_qwen3_5(jinja)) return "qwen3_5";
  // What Qwen3's two formats share: ChatML turns, tools in a system message, calls as JSON.
  for (const char* word :
       {"<|im_start|>", "<|im_end|>", "<tools>", "<tool_call>", "<tool_response>", "<args-json-object>"}) {
    if (!mentions(word)) return std::nullopt;
  }
  // Relatives that share those: Qwen3.5 and Qwen3-Coder (calls as XML), the VL models, Qwen2.5 and others with a system
  // message of their own, and Qwen3-Thinking-2507 and QwQ, whose generation prompt opens a thinking block.
  for (const char* word :
       {"<function=", "<parameter=", "<|vision_start|>", "<|image_pad|>", "You are Qwen", "You are a helpful",
        "system\\nYou are", "<|im_start|>assistant\\n<think>\\n'", "<|im_start|>assistant\\n<think>\\n\""}) {
    if (mentions(word)) return std::nullopt;
  }
  if (mentions("enable_thinking") && mentions("reasoning_content") && mentions("</think>")) return "qwen3";
  if (!mentions("enable_thinking") && !mentions("reasoning_content") && !mentions("think>"))
    return "qwen3_instruct_2507";
  return std::nullopt;
}

bool thinks_by_default(std::string_view jinja) {
  // The one condition in which Qwen3.5's smaller models differ.
  return jinja.find("enable_thinking is true") == jinja.npos;
}

bool template_thinks_by_default(const std::filesystem::path& model_folder) {
  const std::optional<Found> found = read_template(model_folder);
  return !found || thinks_by_default(found->jinja);
}

std::string detect_chat_template(const std::filesystem::path& model_folder) {
  const std::optional<Found> found = read_template(model_folder);
  if (!found) {
    if (is_deepseek_v4(model_folder)) return "deepseek_v4";
    throw input_error(model_folder.string(), "no chat template (no chat_template.jinja, none in tokenizer_config.json)",
                      kHowToMend);
  }
  if (auto name = recognise_chat_template(found->jinja)) return *name;
  throw input_error(found->where, "the chat template is of no format known here", kHowToMend);
}

}  // namespace moraine
