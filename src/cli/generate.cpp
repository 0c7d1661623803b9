// moraine generate: a prompt in, the model's answer out.
#include "infer/generate.h"

#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/output.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/open.h"
#include "cli/run_on_ranks.h"
#include "cli/text_stream.h"
#include "text/chat/chat_template.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

struct Prompt {
  std::string text;
  std::string end_of_turn = "";  // the token of its chat format; "" for text in none
};

void check_generate_flags(const CommandArgs& args) {
  if (args.prompt.empty() == args.chat.empty()) {
    throw input_error("generate", args.prompt.empty() ? "nothing to answer" : "both --prompt and --chat are given",
                      "give either --prompt TEXT or --chat FILE.json");
  }
  if (!is_utf8(args.prompt)) throw input_error("--prompt", "is not UTF-8 text");
  if (args.max_new_tokens < 1) throw input_error("--max-new-tokens", "must be 1 or more");
  if (args.temperature < 0) throw input_error("--temperature", "must be 0 or more");
}

Prompt chat_prompt(const CommandArgs& args, const DataConfig& config, const Tokenizer& tokenizer) {
  OrderedJson chat = parse_exact_json(read_text_file(args.chat), args.chat);
  OrderedJson messages = chat, tools;
  if (chat.is_object()) {
    if (!chat.contains("messages")) throw input_error(args.chat, "has no key 'messages'", "{\"messages\": [...]}");
    messages = chat["messages"];
    if (chat.contains("tools")) tools = chat["tools"];
  }
  const auto format =
      make_chat_template(config.chat_template, config.template_options, args.model, config.template_name);
  check_turn_tokens(*format, tokenizer);
  const auto text = at_place(args.chat, [&] { return format->encoder->generation_prompt(messages, tools); });
  return {text, format->turns.end_of_turn};
}

// The text as a user's message, or as it is for a model without a chat format of its own.
Prompt text_prompt(const CommandArgs& args, const DataConfig& config, const Tokenizer& tokenizer) {
  std::unique_ptr<ChatTemplate> format;
  try {
    format = make_chat_template(config.chat_template, config.template_options, args.model, config.template_name);
  } catch (const Error& error) {
    if (config.chat_template != "auto" || !config.template_options.empty()) throw;
    log_warning(fmt::format("{}: {}: the prompt is used as it is ({})", error.where, error.message, error.hint));
    return {args.prompt};
  }
  check_turn_tokens(*format, tokenizer);
  const OrderedJson messages = OrderedJson::array({OrderedJson{{"role", "user"}, {"content", args.prompt}}});
  const auto text = at_place("--prompt", [&] { return format->encoder->generation_prompt(messages, nullptr); });
  return {text, format->turns.end_of_turn};
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
    if (!args.json) print_result(to_terminal ? for_terminal(text) : std::string(text));
  });
  const std::vector<int64_t> ids = generate(
      opened.loaded, opened.adapter_state(), prompt_ids, options, [&](int64_t id) { stream.add(id); },
      *opened.groups().world);
  stream.finish();
  if (args.json) {
    const OrderedJson json = {
        {"text", tokenizer.decode_skipping_special(ids)}, {"ids", ids}, {"prompt_tokens", prompt_ids.size()}};
    print_json(json);
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
