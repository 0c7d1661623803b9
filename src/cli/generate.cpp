// moraine generate: a prompt in, the model's answer out.
#include "infer/generate.h"

#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/output.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/open.h"
#include "cli/run_on_ranks.h"
#include "cli/text_stream.h"
#include "text/chat/answer_reader.h"
#include "text/chat/chat_template.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

struct Prompt {
  std::string text;
  std::string end_of_turn = "";          // the token of its chat format; "" for text in none
  OrderedJson tools = nullptr;           // an array or null
  std::optional<AnswerReader> reader{};  // with --parse
};

void check_generate_flags(const CommandArgs& args) {
  if (args.prompt.empty() == args.chat.empty()) {
    throw input_error("generate", args.prompt.empty() ? "nothing to answer" : "both --prompt and --chat are given",
                      "give either --prompt TEXT or --chat FILE.json");
  }
  if (!is_utf8(args.prompt)) throw input_error("--prompt", "is not UTF-8 text");
  if (args.max_new_tokens < 1) throw input_error("--max-new-tokens", "must be 1 or more");
  if (args.temperature < 0) throw input_error("--temperature", "must be 0 or more");
  if (!args.syntax.empty() && !args.parse_answer) throw input_error("--syntax", "is for --parse only");
}

// data.template_options with --template-option NAME=VALUE in them. A value is JSON, or else the text that it is.
Json template_options(const CommandArgs& args, const DataConfig& config) {
  Json options = config.template_options.is_null() ? Json::object() : config.template_options;
  for (const std::string& word : args.template_option) {
    const size_t equals = word.find('=');
    if (equals == word.npos || equals == 0)
      throw input_error("--template-option", "is not NAME=VALUE: " + quote_text(word));
    const std::string name = word.substr(0, equals), text = word.substr(equals + 1);
    if (!is_utf8(word)) throw input_error("--template-option", "is not UTF-8 text");
    if (options.contains(name)) throw input_error("--template-option", name + " is given twice");
    const Json value = Json::parse(text, nullptr, false);
    options[name] = value.is_discarded() ? Json(text) : value;
  }
  return options;
}

OrderedJson read_tools(const CommandArgs& args) {
  if (args.tools.empty()) return nullptr;
  OrderedJson tools = parse_exact_json(read_text_file(args.tools), args.tools);
  if (!tools.is_array()) throw input_error(args.tools, "is not a list of tools", "[{\"type\": \"function\", …}]");
  return tools;
}

// The prompt of `messages` in the chat format, at `place` for errors.
Prompt prompt_in(const ChatTemplate& chat, const CommandArgs& args, const OrderedJson& messages, OrderedJson tools,
                 const std::string& place) {
  Prompt prompt;
  prompt.text = at_place(place, [&] { return chat.encoder->generation_prompt(messages, tools); });
  prompt.end_of_turn = chat.turns.end_of_turn;
  prompt.tools = std::move(tools);
  if (args.parse_answer) {
    const bool is_named = !args.syntax.empty();
    prompt.reader.emplace(chat, is_named ? args.syntax : "auto", is_named ? "--syntax" : "--parse");
  }
  return prompt;
}

Prompt chat_prompt(const CommandArgs& args, const DataConfig& config, const Tokenizer& tokenizer) {
  OrderedJson chat = parse_exact_json(read_text_file(args.chat), args.chat);
  OrderedJson messages = chat, tools = read_tools(args);
  if (chat.is_object()) {
    if (!chat.contains("messages")) throw input_error(args.chat, "has no key 'messages'", "{\"messages\": [...]}");
    messages = chat["messages"];
    if (chat.contains("tools") && !chat["tools"].is_null()) {
      if (!tools.is_null()) throw input_error("--tools", args.chat + " has tools too");
      tools = chat["tools"];
    }
  }
  const auto format =
      make_chat_template(config.chat_template, template_options(args, config), args.model, config.template_name);
  check_turn_tokens(*format, tokenizer);
  return prompt_in(*format, args, messages, std::move(tools), args.chat);
}

// The text as a user's message, or as it is for a model without a chat format of its own.
Prompt text_prompt(const CommandArgs& args, const DataConfig& config, const Tokenizer& tokenizer) {
  std::unique_ptr<ChatTemplate> format;
  const Json options = template_options(args, config);
  OrderedJson tools = read_tools(args);
  try {
    format = make_chat_template(config.chat_template, options, args.model, config.template_name);
  } catch (const Error& error) {
    if (config.chat_template != "auto" || !options.empty() || !tools.is_null() || args.parse_answer) throw;
    log_warning(fmt::format("{}: {}: the prompt is used as it is ({})", error.where, error.message, error.hint));
    return {args.prompt};
  }
  check_turn_tokens(*format, tokenizer);
  const OrderedJson messages = OrderedJson::array({OrderedJson{{"role", "user"}, {"content", args.prompt}}});
  return prompt_in(*format, args, messages, std::move(tools), "--prompt");
}

std::vector<int64_t> encode(const Prompt& prompt, const Tokenizer& tokenizer, const CommandArgs& args,
                            int64_t vocab_size) {
  std::vector<int64_t> ids = tokenizer.encode(prompt.text).ids;
  if (ids.empty()) throw input_error(args.chat.empty() ? "--prompt" : args.chat, "has no tokens");
  for (int64_t id : ids) {
    if (id < vocab_size) continue;
    throw input_error(args.model,
                      fmt::format("tokenizer.json gives token {}, but config.json's vocab_size is {}", id, vocab_size),
                      "the tokenizer is another model's");
  }
  return ids;
}

// A base checkpoint names only the end of a text; an adapter trained on chats ends its turns.
std::vector<int64_t> stop_ids(const CommandArgs& args, const Prompt& prompt, const Tokenizer& tokenizer) {
  std::vector<int64_t> ids = stop_ids_of(args.model);
  if (!prompt.end_of_turn.empty()) {
    const std::vector<int64_t> end = tokenizer.encode(prompt.end_of_turn).ids;
    if (end.size() == 1) ids.push_back(end.front());
  }
  return ids;
}

// The answer's message, or why it is none: {"message", "error"}, one of them null.
OrderedJson parsed(const Prompt& prompt, const Tokenizer& tokenizer, const std::vector<int64_t>& ids,
                   const GenerateOptions& options) {
  OrderedJson message, error;
  // What ended the answer is not among its tokens; one that reached the limit was cut.
  const bool is_cut = static_cast<int64_t>(ids.size()) >= options.max_new_tokens;
  try {
    message = at_place("answer",
                       [&] { return prompt.reader->read(tokenizer.decode(ids), prompt.text, prompt.tools, !is_cut); });
  } catch (const Error& malformed) {
    error = is_cut ? fmt::format("cut at {} tokens: {}", options.max_new_tokens, malformed.what()) : malformed.what();
  }
  return {{"message", message}, {"error", error}};
}

// Answers on the rank that has the prompt; the others serve it.
void answer(const CommandArgs& args, const Recipe& recipe, Control& control) {
  OpenedInputs inputs = open_inputs(args, recipe, control);
  // All small files first: mistakes show before the weights are loaded.
  const Tokenizer tokenizer = Tokenizer::from_folder(args.model);
  const Prompt prompt =
      args.chat.empty() ? text_prompt(args, recipe.data, tokenizer) : chat_prompt(args, recipe.data, tokenizer);
  const std::vector<int64_t> prompt_ids = encode(prompt, tokenizer, args, inputs.checkpoint.shape().vocab_size);
  const GenerateOptions options{args.max_new_tokens, args.temperature, args.seed, stop_ids(args, prompt, tokenizer)};

  OpenedModel opened = load_inputs(std::move(inputs), args, recipe, control);
  control.set_stage("generate");
  const bool to_terminal = isatty(STDOUT_FILENO);
  TextStream stream(tokenizer, [&](std::string_view text) {
    if (!args.json && !prompt.reader) print_result(to_terminal ? for_terminal(text) : std::string(text));
  });
  const std::vector<int64_t> ids = generate(
      opened.loaded, opened.adapter_state(), prompt_ids, options, [&](int64_t id) { stream.add(id); },
      *opened.groups().world);
  stream.finish();
  const OrderedJson answer = prompt.reader ? parsed(prompt, tokenizer, ids, options) : OrderedJson::object();
  if (args.json) {
    OrderedJson json = {
        {"text", tokenizer.decode_skipping_special(ids)}, {"ids", ids}, {"prompt_tokens", prompt_ids.size()}};
    json.update(answer);
    print_json(json);
  } else if (prompt.reader) {
    const std::string shown = answer["error"].is_null() ? answer["message"].dump(2) + "\n"
                                                        : "malformed: " + answer["error"].get<std::string>() + "\n" +
                                                              tokenizer.decode(ids) + "\n";
    print_result(to_terminal ? for_terminal(shown) : shown);
  } else {
    print_result("\n");
  }
}

void serve(const CommandArgs& args, const Recipe& recipe, Control& control) {
  OpenedModel opened = load_inputs(open_inputs(args, recipe, control), args, recipe, control);
  control.set_stage("generate");
  generate(opened.loaded, opened.adapter_state(), {}, {}, nullptr, *opened.groups().world);
}

}  // namespace

int run_generate(const CommandArgs& args) {
  const auto check = [&](int64_t ranks) {
    check_generate_flags(args);
    check_mesh(read_overrides(args), ranks);
  };
  return run_on_ranks(args, check, [&](Control& control) {
    check_generate_flags(args);
    const Recipe recipe = read_overrides(args);
    if (control.world().rank == 0) {
      answer(args, recipe, control);
    } else {
      serve(args, recipe, control);
    }
    return 0;
  });
}

}  // namespace moraine
