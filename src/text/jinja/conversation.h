// A conversation rendered by a chat template, and which of its bytes each assistant turn wrote.
#pragma once

#include <ctime>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/jinja/template.h"

namespace moraine::jinja {

// How a template is rendered: its variables beside messages and tools (special tokens among them), and what
// apply_chat_template calls by these names.
struct RenderOptions {
  OrderedJson variables = OrderedJson::object();
  bool add_generation_prompt = false, continue_final_message = false;
  std::optional<std::tm> now;  // without: the clock
};

// `options`: an object of variables, among which add_generation_prompt, continue_final_message (true or false) and now
// ("2026-11-28T12:00:00") are taken out. Throws an input error that names a wrong value's key behind `where`.
RenderOptions read_render_options(const OrderedJson& options, const std::string& where);

// What an assistant turn wrote, as bytes [begin, end) of the text.
struct TurnSpan {
  size_t message, begin, end;
};

struct ConversationText {
  std::string text;
  std::vector<Run> runs;
  std::vector<TurnSpan> turns;  // in order; of turns whose {% generation %} block is missing none
  size_t generation_blocks = 0;
  // Turns whose beginning or end one rendering of the whole conversation shows otherwise than the conversation up to
  // the turn would: thinking of earlier turns is gone, or the prompt that served them is another.
  size_t changed_turns = 0;
};

// The bytes of `made`'s text that came from the messages of users and tools: of every role but assistant, system and
// developer. In order; what touches is one.
std::vector<std::pair<size_t, size_t>> foreign_ranges(const OrderedJson& messages, const ConversationText& made);

enum class WhichTurns { kAll, kLast };

// A template with its options, ready for conversations. Safe from several threads.
class ConversationTemplate {
 public:
  ConversationTemplate(Template compiled, RenderOptions options);

  // The text alone, as apply_chat_template gives it. Throws an input error without the row's place.
  std::string text(const OrderedJson& messages, const OrderedJson& tools, bool add_generation_prompt) const;

  // The text by the options, and what assistant turns wrote of it: {% generation %} blocks where the template has them,
  // else from the end of the turn's generation prompt to the end of its last token, white space behind that left out.
  // With kLast the last message's turn alone, where it is an assistant's.
  // Throws an input error without the row's place where a rendering fails, or a turn's span is not decided or would
  // hold a byte of another message; `spans_failed`, when not null, gets the text of an error of the spans instead, and
  // there are no turns then.
  ConversationText render(const OrderedJson& messages, const OrderedJson& tools, std::string* spans_failed = nullptr,
                          WhichTurns which = WhichTurns::kAll) const;

  // What ends an assistant's turn that another follows; "" when the template writes nothing certain.
  const std::string& end_of_turn() const { return turn_end_; }
  // A question, its answer and another question, rendered; "" where the template refuses them.
  const std::string& scaffold() const { return scaffold_; }

 private:
  struct Inputs;
  // The conversation up to a turn, ready for its answer, and why the turn does not follow it.
  struct Prompt {
    std::string text, why;
    bool is_refused = false;  // by the template
  };

  Inputs make_inputs(const OrderedJson& messages, const OrderedJson& tools) const;
  Variables variables_of(const Inputs& inputs, Value messages, bool add_generation_prompt) const;
  // The first `count` messages.
  Rendered render_values(const Inputs& inputs, size_t count, bool add_generation_prompt, bool is_plain = false) const;
  // Renders the beginnings of a long conversation that find_turns will ask for, where that costs less than one by one.
  void prepare_prefixes(const OrderedJson& messages, Inputs& inputs) const;
  std::string prefix(const Inputs& inputs, size_t count, bool add_generation_prompt) const;
  Rendered continue_final(const OrderedJson& messages, Inputs& inputs) const;
  void find_turns(const OrderedJson& messages, const Inputs& inputs, WhichTurns which, ConversationText& made) const;
  std::optional<TurnSpan> turn_by_prefixes(const OrderedJson& messages, const Inputs& inputs, size_t index,
                                           const ConversationText& made, Prompt& prompt) const;
  TurnSpan turn_by_origin(const Inputs& inputs, size_t index, const ConversationText& made, const Prompt& prompt) const;
  void learn_ends();

  Template template_;
  RenderOptions options_;
  Variables variables_;
  std::string eos_;       // the variable eos_token
  std::string last_end_;  // what follows the content of a last assistant turn, white space around it left out
  std::string turn_end_;  // the end of turns
  std::string scaffold_;
  std::string cut_behind_;  // the same, where a template writes more behind a last turn; else ""
};

}  // namespace moraine::jinja
