#include "text/chat/jinja_chat.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/path.h"
#include "text/chat/chat_message.h"
#include "text/chat/row_budget.h"
#include "text/jinja/conversation.h"
#include "text/tokenizer/at_place.h"
#include "text/tokenizer/input_notes.h"

namespace moraine {
namespace {

// The special tokens that transformers gives templates as variables.
OrderedJson special_tokens(const std::filesystem::path& folder) {
  OrderedJson tokens = OrderedJson::object();
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    const std::filesystem::path file = folder / name;
    if (folder.empty() || !path_exists(file)) continue;
    const Json config = read_json_file(file);
    if (!config.is_object()) continue;
    for (const char* key :
         {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
      if (!config.contains(key)) continue;
      const Json& token = config[key];
      if (token.is_string()) tokens[key] = token.get<std::string>();
      if (token.is_object() && token.contains("content") && token["content"].is_string())
        tokens[key] = token["content"].get<std::string>();
    }
  }
  return tokens;
}

// Tool calls whose arguments are JSON text of an object, with the object instead; null when there are none.
OrderedJson with_argument_objects(const OrderedJson& messages) {
  OrderedJson changed = messages;
  bool any = false;
  for (OrderedJson& message : changed) {
    if (!message.is_object() || !message.contains("tool_calls") || !message["tool_calls"].is_array()) continue;
    for (OrderedJson& call : message["tool_calls"]) {
      if (!call.is_object()) continue;
      OrderedJson& function = call.contains("function") && call["function"].is_object() ? call["function"] : call;
      if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
      try {
        OrderedJson arguments = parse_exact_json(function["arguments"].get_ref<const std::string&>(), "");
        if (!arguments.is_object()) continue;
        function["arguments"] = std::move(arguments);
        any = true;
      } catch (const Error&) {  // text that is no JSON stays text
      }
    }
  }
  return any ? changed : OrderedJson();
}

class JinjaEncoder final : public ChatEncoder {
  // `render` of the messages in the form that the template takes.
  template <typename Render>
  auto with_arguments(const OrderedJson& messages, const Render& render) const {
    const RowBudget budget;
    const OrderedJson objects = with_argument_objects(messages);
    if (objects.is_null()) return render(messages);
    try {
      return render(objects);
    } catch (const Error&) {
      if (budget.is_spent()) throw;
      auto made = render(messages);
      note_about_input(where_ + ": this template takes the arguments of tool calls as JSON text");
      return made;
    }
  }

 public:
  JinjaEncoder(jinja::ConversationTemplate chat, std::string where)
      : chat_(std::move(chat)), where_(std::move(where)) {}

  ChatText training_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return shown(messages, tools, jinja::WhichTurns::kAll);
  }

  ChatText turn_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return shown(messages, tools, jinja::WhichTurns::kLast);
  }

  std::string inference_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return with_arguments(messages, [&](const OrderedJson& given) { return chat_.text(given, tools, false); });
  }

  std::string generation_prompt(const OrderedJson& messages, const OrderedJson& tools) const override {
    return with_arguments(messages, [&](const OrderedJson& given) { return chat_.text(given, tools, true); });
  }

 private:
  ChatText shown(const OrderedJson& messages, const OrderedJson& tools, jinja::WhichTurns which) const {
    return with_arguments(messages, [&](const OrderedJson& given) {
      jinja::ConversationText made = chat_.render(given, tools, nullptr, which);
      ChatText text;
      text.changed_turns = made.changed_turns;
      for (const jinja::TurnSpan& turn : made.turns) {
        text.trained.emplace_back(turn.begin, turn.end);
        if (turn.message < given.size() && !read_train_flag(given[turn.message]))
          text.withheld.push_back(text.trained.back());
      }
      text.foreign = jinja::foreign_ranges(given, made);
      text.text = std::move(made.text);
      return text;
    });
  }

  jinja::ConversationTemplate chat_;
  std::string where_;
};

}  // namespace

JinjaChat make_jinja_chat(const std::string& source, const std::string& where, const OrderedJson& options,
                          const std::filesystem::path& model_folder) {
  OrderedJson variables = special_tokens(model_folder);
  for (const auto& [key, value] : options.items()) variables[key] = value;
  const jinja::RenderOptions read = jinja::read_render_options(variables, "data.template_options");
  if (read.add_generation_prompt || read.continue_final_message)
    throw input_error("data.template_options", "add_generation_prompt and continue_final_message are not for training");
  jinja::ConversationTemplate chat(jinja::Template(source, where), read);
  const std::string end = chat.end_of_turn(), scaffold = chat.scaffold();
  return {std::make_unique<JinjaEncoder>(std::move(chat), where), scaffold, end};
}

}  // namespace moraine
