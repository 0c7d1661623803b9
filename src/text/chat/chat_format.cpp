#include "text/chat/chat_format.h"

#include "base/error.h"
#include "text/chat/deepseek_v4_chat.h"
#include "text/chat/deepseek_v4_parse.h"
#include "text/chat/deepseek_v4_tokens.h"
#include "text/chat/qwen3_5_chat.h"
#include "text/chat/qwen_chat.h"
#include "text/chat/react_chat.h"

namespace moraine {
namespace {

const std::vector<std::string> kQwenTurns{"<|im_start|>", "<|im_end|>"};

// `otherwise`: without the option.
bool enable_thinking(const Json& options, bool otherwise) {
  if (!options.contains("enable_thinking")) return otherwise;
  const Json& value = options["enable_thinking"];
  if (!value.is_boolean()) throw input_error("data.template_options.enable_thinking", "not true or false");
  return value.get<bool>();
}

QwenThinking qwen_thinking(const Json& options, bool thinks_by_default) {
  return enable_thinking(options, thinks_by_default) ? QwenThinking::kOn : QwenThinking::kOff;
}

std::vector<ChatFormat> make_table() {
  using namespace deepseek_v4;
  return {
      {.name = "qwen3",
       .options = {"enable_thinking"},  // without it as the checkpoint's template; true with the format's name
       .released = {{"4457e3d12b367a860283f874ff58d644", true},  // as first released
                    {"0fab82ce8f4d5175c9e0155c80737cf2",
                     true}},  // updated for contents other than text, which are refused
       .resembles = resembles_qwen3,
       .turn_tokens = kQwenTurns,
       .end_of_turn = "<|im_end|>",
       .answers = "hermes",
       .make = [](const Json& options,
                  bool thinks_by_default) { return make_qwen3_chat(qwen_thinking(options, thinks_by_default)); }},
      {.name = "qwen3_instruct_2507",
       .options = {"enable_thinking"},  // only false
       .released = {{"cc9ddd5a40bc1c0c8fb5d937b1e8f5d0", false}},
       .resembles = resembles_qwen3_instruct_2507,
       .turn_tokens = kQwenTurns,
       .end_of_turn = "<|im_end|>",
       .answers = "hermes",
       .make =
           [](const Json& options, bool) {
             if (enable_thinking(options, false))
               throw input_error("data.template_options.enable_thinking", "qwen3_instruct_2507 has no thinking",
                                 "leave it out, or use qwen3 or qwen3_5");
             return make_qwen3_chat(QwenThinking::kNone);
           }},
      {.name = "qwen3_5",
       .options = {"enable_thinking"},
       .released = {{"427b80bb3dda26b10ed0a1d8b9d7e0be", true},    // Qwen3.5-4B and larger
                    {"b20ce3c106c0a721ea7113e61d9a8bcf", false}},  // Qwen3.5-0.8B and 2B
       .resembles = resembles_qwen3_5,
       .turn_tokens = kQwenTurns,
       .end_of_turn = "<|im_end|>",
       .answers = "qwen3_coder",
       .make = [](const Json& options,
                  bool thinks_by_default) { return make_qwen3_5_chat(qwen_thinking(options, thinks_by_default)); }},
      {.name = "deepseek_v4",
       .options = {"thinking_mode", "drop_thinking", "reasoning_effort", "reasoning_effort_profile"},
       .model_type = "deepseek_v4",  // its checkpoints come with an encoder in Python instead of a template
       .model_name = "DeepSeek-V4",
       .turn_tokens = {std::string(kBeginOfSentence), std::string(kEndOfSentence), std::string(kUser),
                       std::string(kAssistant)},
       .end_of_turn = std::string(kEndOfSentence),
       .answers = "deepseek_v4",
       .make = [](const Json& options, bool) { return make_deepseek_v4_chat(read_deepseek_v4_options(options)); },
       // Wrapped, each result of a tool is a user's turn and no tools are seen: only the final answer would be trained.
       .when_wrapped = {{"drop_thinking", false}},
       .from_checkpoint = deepseek_v4_checkpoint_options,
       .leaves_untrained = "drop_thinking of deepseek_v4 with thinking",
       .parser = make_parser,
       .completion_keys = {"thinking_mode"}},
      {.name = "react", .options = {"base"}, .wrap = make_react_chat},
  };
}

}  // namespace

const std::vector<ChatFormat>& chat_formats() {
  static const std::vector<ChatFormat> table = make_table();
  return table;
}

const ChatFormat* find_chat_format(std::string_view name) {
  for (const ChatFormat& format : chat_formats()) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

std::vector<std::string> chat_format_names(bool (*have)(const ChatFormat& format)) {
  std::vector<std::string> names;
  for (const ChatFormat& format : chat_formats()) {
    if (have == nullptr || have(format)) names.push_back(format.name);
  }
  return names;
}

bool has_encoder(const ChatFormat& format) { return format.make != nullptr; }

bool has_parser(const ChatFormat& format) { return format.parser != nullptr; }

std::string join_choices(const std::vector<std::string>& words) {
  std::string joined;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) joined += i + 1 == words.size() ? " or " : ", ";
    joined += words[i];
  }
  return joined;
}

}  // namespace moraine
