#include "text/jinja/conversation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "text/jinja/python_text.h"
#include "text/tokenizer/at_place.h"

namespace moraine::jinja {
namespace {

// What generation prompts open, or close, that a finished turn may lack.
constexpr std::string_view kThinkingMarks[] = {"<think>",      "</think>",   "[THINK]",
                                               "<seed:think>", "<|channel>", "<|START_THINKING|>"};

bool is_assistant(const OrderedJson& message) {
  if (!message.is_object()) return false;
  const auto role = message.find("role");
  return role != message.end() && role->is_string() && role->get_ref<const std::string&>() == "assistant";
}

// Of all texts in it, about.
size_t bytes_in(const OrderedJson& json) {
  if (json.is_string()) return json.get_ref<const std::string&>().size();
  size_t bytes = 8;
  if (json.is_structured()) {
    for (const OrderedJson& part : json) bytes += bytes_in(part);
  }
  return bytes;
}

// The index of the run that holds the byte at `at`; 0 where none does.
size_t run_at(const std::vector<Run>& runs, size_t at) {
  auto run =
      std::upper_bound(runs.begin(), runs.end(), at, [](size_t place, const Run& one) { return place < one.begin; });
  return run == runs.begin() ? 0 : static_cast<size_t>(run - runs.begin()) - 1;
}

Origin origin_in(const std::vector<Run>& runs, size_t at) {
  return runs.empty() ? kNoOrigin : runs[run_at(runs, at)].origin;
}

// The end of the last stretch of `runs` that has a message.
size_t end_of_messages(const Rendered& rendered) {
  for (size_t i = rendered.runs.size(); i-- > 0;) {
    if (message_of(rendered.runs[i].origin) < 0) continue;
    return i + 1 < rendered.runs.size() ? rendered.runs[i + 1].begin : rendered.text.size();
  }
  return 0;
}

void cut(Rendered& rendered, size_t size) {
  rendered.text.resize(size);
  while (!rendered.runs.empty() && rendered.runs.back().begin >= size) rendered.runs.pop_back();
}

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

std::tm read_time(const std::string& text, const std::string& where) {
  std::tm time{};
  int year = 0, month = 0;
  const int read = std::sscanf(text.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d", &year, &month, &time.tm_mday, &time.tm_hour,
                               &time.tm_min, &time.tm_sec);
  const bool in_range = month >= 1 && month <= 12 && time.tm_mday >= 1 && time.tm_mday <= 31 && time.tm_hour < 24 &&
                        time.tm_min < 60 && time.tm_sec < 61;
  if ((read != 3 && read < 5) || !in_range) throw input_error(where, "is no ISO time", "2026-11-28T12:00:00");
  time.tm_year = year - 1900;
  time.tm_mon = month - 1;
  const std::time_t seconds = timegm(&time);  // for the day of the week
  gmtime_r(&seconds, &time);
  return time;
}

// An error about message `index`.
Error turn_error(size_t index, const std::string& why) {
  return row_error(fmt::format("message {}: what the assistant wrote is not certain: {}", index, why),
                   "a template with {% generation %} blocks says it itself");
}

}  // namespace

RenderOptions read_render_options(const OrderedJson& options, const std::string& where) {
  RenderOptions read;
  if (options.is_null()) return read;
  if (!options.is_object()) throw input_error(where, "not a mapping");
  for (const auto& [key, value] : options.items()) {
    const std::string place = where + "." + key;
    if (key == "add_generation_prompt" || key == "continue_final_message") {
      if (!value.is_boolean()) throw input_error(place, "not true or false");
      (key[0] == 'a' ? read.add_generation_prompt : read.continue_final_message) = value.get<bool>();
    } else if (key == "now") {
      if (!value.is_string()) throw input_error(place, "is no ISO time", "2026-11-28T12:00:00");
      read.now = read_time(value.get<std::string>(), place);
    } else if (key == "messages" || key == "tools") {
      throw input_error(place, "comes with each row");
    } else {
      read.variables[key] = value;
    }
  }
  return read;
}

std::vector<std::pair<size_t, size_t>> foreign_ranges(const OrderedJson& messages, const ConversationText& made) {
  std::vector<bool> is_foreign;
  for (const OrderedJson& message : messages) {
    const OrderedJson role = message.is_object() ? message.value("role", OrderedJson()) : OrderedJson();
    is_foreign.push_back(role != "assistant" && role != "system" && role != "developer");
  }
  std::vector<std::pair<size_t, size_t>> ranges;
  for (size_t i = 0; i < made.runs.size(); ++i) {
    const int message = message_of(made.runs[i].origin);
    if (message < 0 || static_cast<size_t>(message) >= is_foreign.size() || !is_foreign[static_cast<size_t>(message)] ||
        field_of(made.runs[i].origin) == Field::kTemplate)
      continue;
    const size_t begin = made.runs[i].begin;
    const size_t end = i + 1 < made.runs.size() ? made.runs[i + 1].begin : made.text.size();
    if (begin >= end) continue;
    if (!ranges.empty() && ranges.back().second == begin) {
      ranges.back().second = end;
    } else {
      ranges.emplace_back(begin, end);
    }
  }
  return ranges;
}

struct ConversationTemplate::Inputs {
  Value messages, tools;
  std::tm now{};
  Value plain = {};  // the messages without origins, for texts of which nobody asks where they came from
  size_t bytes = 0;  // of the texts in them
  RenderedBeginnings beginnings = {};
};

ConversationTemplate::Inputs ConversationTemplate::make_inputs(const OrderedJson& messages,
                                                               const OrderedJson& tools) const {
  try {
    return {messages_from_json(messages), from_json(tools), options_.now.value_or(local_time()), from_json(messages),
            bytes_in(messages) + bytes_in(tools)};
  } catch (const Failure& failure) {
    throw row_error(failure.what());
  }
}

ConversationTemplate::ConversationTemplate(Template compiled, RenderOptions options)
    : template_(std::move(compiled)), options_(std::move(options)) {
  for (const auto& [name, value] : options_.variables.items()) variables_.emplace_back(name, from_json(value));
  if (!options_.variables.contains("documents")) variables_.emplace_back("documents", Value::none());
  const auto eos = options_.variables.find("eos_token");
  if (eos != options_.variables.end() && eos->is_string()) eos_ = eos->get<std::string>();
  learn_ends();
}

// Renders a conversation of one exchange, alone and with another behind it, to see how turns end.
void ConversationTemplate::learn_ends() {
  constexpr std::string_view kAnswer = "Aa1";
  OrderedJson messages =
      OrderedJson::array({{{"role", "user"}, {"content", "Qq1"}}, {{"role", "assistant"}, {"content", "Aa1"}}});
  Inputs inputs;
  inputs.now = options_.now.value_or(std::tm{});
  inputs.tools = Value::none();
  const BudgetScope budget({.steps = 1'000'000, .bytes = int64_t{64} << 20});
  try {
    inputs.messages = messages_from_json(messages);
    const Rendered alone = render_values(inputs, 2, false);
    const size_t at = alone.text.rfind(kAnswer);
    if (at == alone.text.npos) return;
    const std::string_view tail = std::string_view(alone.text).substr(at + kAnswer.size());
    last_end_ = strip_left(strip_right(tail));
    messages.push_back({{"role", "user"}, {"content", "Zz9"}});
    inputs.messages = messages_from_json(messages);
    const Rendered followed = render_values(inputs, 3, false);
    scaffold_ = followed.text;
    const size_t answer = followed.text.rfind(kAnswer);
    if (answer == followed.text.npos) return;
    size_t end = answer + kAnswer.size();
    const size_t begin = end;
    while (end < followed.text.size() && message_of(origin_in(followed.runs, end)) == 1) ++end;
    const std::string_view ends = strip_right(std::string_view(followed.text).substr(begin, end - begin));
    // A template may close more than the turn: the token that ends it is the last.
    turn_end_ = !eos_.empty() && ends.ends_with(eos_) ? std::string_view(eos_) : ends;
    if (ends.empty() && !eos_.empty() && std::string_view(followed.text).substr(begin).starts_with(eos_))
      turn_end_ = eos_;
    if (!ends.empty() && tail.starts_with(ends) && strip_right(tail) != ends) cut_behind_ = turn_end_;
  } catch (const Error&) {  // such a conversation is none of this template's
  }
}

Variables ConversationTemplate::variables_of(const Inputs& inputs, Value messages, bool add_generation_prompt) const {
  Variables variables = variables_;
  variables.emplace_back("messages", std::move(messages));
  variables.emplace_back("tools", inputs.tools);
  variables.emplace_back("add_generation_prompt", Value::boolean(add_generation_prompt));
  return variables;
}

Rendered ConversationTemplate::render_values(const Inputs& inputs, size_t count, bool add_generation_prompt,
                                             bool is_plain) const {
  allow_rendering(count, inputs.bytes);
  Value messages = is_plain ? inputs.plain : inputs.messages;
  if (count < messages.items().size()) {
    auto first = std::make_shared<List>(static_cast<const List&>(*messages.object));
    first->items.resize(count);
    messages = Value::of(Kind::kList, std::move(first));
  }
  return template_.render(variables_of(inputs, std::move(messages), add_generation_prompt), inputs.now);
}

void ConversationTemplate::prepare_prefixes(const OrderedJson& messages, Inputs& inputs) const {
  constexpr size_t kEnoughTurns = 4;
  std::vector<bool> wanted(messages.size() + 1, false);
  size_t turns = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!is_assistant(messages[i])) continue;
    ++turns;
    wanted[i] = true;
    wanted[i + 1] = i + 1 < messages.size();
  }
  if (turns < kEnoughTurns) return;
  allow_rendering(messages.size(), inputs.bytes);
  inputs.beginnings =
      template_.render_beginnings(variables_of(inputs, inputs.plain, false), inputs.now, wanted, inputs.bytes);
}

std::string ConversationTemplate::prefix(const Inputs& inputs, size_t count, bool add_generation_prompt) const {
  const std::vector<RenderedBeginnings::Part>& parts = inputs.beginnings.parts;
  const auto part = std::partition_point(parts.begin(), parts.end(), [&](const RenderedBeginnings::Part& one) {
    return std::pair(one.count, one.has_prompt) < std::pair(count, add_generation_prompt);
  });
  if (part != parts.end() && part->count == count && part->has_prompt == add_generation_prompt)
    return inputs.beginnings.shared.substr(0, part->head) + part->rest;
  const BudgetScope budget;
  try {
    return render_values(inputs, count, add_generation_prompt, true).text;
  } catch (const Error&) {
    if (budget.is_spent()) throw;
    // Whose message it was is known with origins only.
    return render_values(inputs, count, add_generation_prompt).text;
  }
}

std::string ConversationTemplate::text(const OrderedJson& messages, const OrderedJson& tools,
                                       bool add_generation_prompt) const {
  const BudgetScope budget;
  return prefix(make_inputs(messages, tools), messages.size(), add_generation_prompt);
}

// transformers marks the end of the last content by a word, and cuts there.
Rendered ConversationTemplate::continue_final(const OrderedJson& messages, Inputs& inputs) const {
  constexpr std::string_view kMark = "CONTINUE_FINAL_MESSAGE_TAG ", kWord = "CONTINUE_FINAL_MESSAGE_TAG";
  OrderedJson marked = messages;
  OrderedJson* content = nullptr;
  if (!marked.empty() && marked.back().is_object() && marked.back().contains("content"))
    content = &marked.back()["content"];
  if (content != nullptr && content->is_array()) {
    OrderedJson* last = nullptr;
    for (OrderedJson& part : *content) {
      if (part.is_object() && part.contains("text")) last = &part["text"];
    }
    content = last;
  }
  if (content == nullptr || !content->is_string())
    throw row_error("continue_final_message needs a last message with a text");
  if (template_.source().find("content") == std::string::npos)
    throw row_error("continue_final_message needs a template that reads 'content'");
  const std::string final = content->get<std::string>();
  *content = final + std::string(kMark);
  inputs.messages = messages_from_json(marked);
  Rendered rendered = render_values(inputs, marked.size(), options_.add_generation_prompt);
  const size_t at = rendered.text.rfind(kWord);
  if (at == rendered.text.npos || rendered.text.find(strip_left(strip_right(final))) == std::string::npos)
    throw row_error("continue_final_message: the template does not show the last message as it is");
  const bool keeps_space = std::string_view(rendered.text).substr(at).starts_with(kMark);
  const std::string_view before = std::string_view(rendered.text).substr(0, at);
  cut(rendered, keeps_space ? at : strip_right(before).size());
  return rendered;
}

ConversationText ConversationTemplate::render(const OrderedJson& messages, const OrderedJson& tools,
                                              std::string* spans_failed, WhichTurns which) const {
  if (!messages.is_array()) throw row_error("messages are no list");
  const BudgetScope budget;
  Inputs inputs = make_inputs(messages, tools);
  Rendered rendered = options_.continue_final_message
                          ? continue_final(messages, inputs)
                          : render_values(inputs, messages.size(), options_.add_generation_prompt);
  ConversationText made;
  made.text = std::move(rendered.text);
  made.runs = std::move(rendered.runs);
  made.generation_blocks = rendered.generated.size();
  try {
    if (template_.has_generation() && !options_.continue_final_message) {
      for (const auto& [begin, end] : rendered.generated) {
        const int message = end > begin ? message_of(origin_in(made.runs, begin)) : -1;
        if (end > begin && (which == WhichTurns::kAll || message + 1 == static_cast<int>(messages.size())))
          made.turns.push_back({message < 0 ? messages.size() : static_cast<size_t>(message), begin, end});
      }
    } else {
      if (which == WhichTurns::kAll) prepare_prefixes(messages, inputs);
      find_turns(messages, inputs, which, made);
    }
    for (const TurnSpan& turn : made.turns) {
      for (size_t i = run_at(made.runs, turn.begin); i < made.runs.size() && made.runs[i].begin < turn.end; ++i) {
        const int message = message_of(made.runs[i].origin);
        if (message < 0 || field_of(made.runs[i].origin) == Field::kTemplate) continue;
        if (static_cast<size_t>(message) < messages.size() && !is_assistant(messages[static_cast<size_t>(message)]))
          throw turn_error(turn.message, fmt::format("its text holds some of message {}", message));
      }
    }
  } catch (const Error& error) {
    if (spans_failed == nullptr || budget.is_spent()) throw;
    *spans_failed = error.message;
    made.turns.clear();
  }
  return made;
}

void ConversationTemplate::find_turns(const OrderedJson& messages, const Inputs& inputs, WhichTurns which,
                                      ConversationText& made) const {
  for (size_t i = which == WhichTurns::kLast && !messages.empty() ? messages.size() - 1 : 0; i < messages.size(); ++i) {
    if (!is_assistant(messages[i])) continue;
    Prompt prompt;
    const std::optional<TurnSpan> turn = turn_by_prefixes(messages, inputs, i, made, prompt);
    if (!turn) ++made.changed_turns;
    made.turns.push_back(turn ? *turn : turn_by_origin(inputs, i, made, prompt));
  }
  for (size_t i = 1; i < made.turns.size(); ++i) {
    if (made.turns[i].begin < made.turns[i - 1].end)
      throw turn_error(made.turns[i].message, "it overlaps the turn before");
  }
}

// The conversation up to the turn, ready for an answer, must begin the text; and so must the one with the turn.
std::optional<TurnSpan> ConversationTemplate::turn_by_prefixes(const OrderedJson& messages, const Inputs& inputs,
                                                               size_t index, const ConversationText& made,
                                                               Prompt& prompt) const {
  const BudgetScope budget;
  const std::string& text = made.text;
  std::string& why = prompt.why;
  try {
    prompt.text = prefix(inputs, index, true);
  } catch (const Error& error) {
    if (budget.is_spent()) throw;
    prompt.is_refused = true;
    why = "the template refuses the conversation before it: " + error.message;
    return std::nullopt;
  }
  if (!text.starts_with(prompt.text)) {
    why = "the prompt that it answers is not how the text begins";
    return std::nullopt;
  }
  const size_t begin = prompt.text.size();
  const bool is_last = index + 1 == messages.size();
  if (options_.continue_final_message && is_last) return TurnSpan{index, begin, text.size()};
  std::string own;
  const std::string* whole = &text;
  if (!is_last || options_.add_generation_prompt) {
    try {
      own = prefix(inputs, index + 1, false);
    } catch (const Error& error) {
      if (budget.is_spent()) throw;
      why = "the template refuses the conversation up to it: " + error.message;
      return std::nullopt;
    }
    whole = &own;
  }
  std::string_view turn = strip_right(*whole);
  if (!cut_behind_.empty() && turn.size() > begin) {
    const size_t end = turn.rfind(cut_behind_);
    if (end != turn.npos && end >= begin) turn = turn.substr(0, end + cut_behind_.size());
  }
  if (!std::string_view(text).starts_with(turn)) {
    why = "the text of the turn changes with what follows";
    return std::nullopt;
  }
  size_t end = std::max(turn.size(), begin);
  const bool has_calls = messages[index].contains("tool_calls") && !messages[index]["tool_calls"].empty() &&
                         !messages[index]["tool_calls"].is_null();
  if (!eos_.empty() && !turn.ends_with(eos_) && std::string_view(text).substr(turn.size()).starts_with(eos_)) {
    end = turn.size() + eos_.size();  // the next message writes this turn's end
  } else if (turn.size() != whole->size() && last_end_.empty() && !has_calls) {
    throw turn_error(index, "the template writes no end of turns, and its text ends in white space");
  }
  return TurnSpan{index, begin, end};
}

// By which characters came from the turn. What its own generation prompt holds of them is left out.
TurnSpan ConversationTemplate::turn_by_origin(const Inputs& inputs, size_t index, const ConversationText& made,
                                              const Prompt& prompt) const {
  const BudgetScope budget;
  const std::string& why = prompt.why;
  size_t begin = made.text.size(), end = 0;
  for (size_t i = 0; i < made.runs.size(); ++i) {
    if (message_of(made.runs[i].origin) != static_cast<int>(index)) continue;
    begin = std::min(begin, made.runs[i].begin);
    end = i + 1 < made.runs.size() ? made.runs[i + 1].begin : made.text.size();
  }
  if (begin >= end) throw turn_error(index, why + ", and nothing in the text comes from it");
  for (size_t i = run_at(made.runs, begin); i < made.runs.size() && made.runs[i].begin < end; ++i) {
    const int message = message_of(made.runs[i].origin);
    if (message >= 0 && message != static_cast<int>(index))
      throw turn_error(index, fmt::format("{}, and its text holds some of message {}", why, message));
  }

  if (prompt.is_refused) throw turn_error(index, why);
  std::string generation_prompt;
  try {
    const std::string before = prefix(inputs, index, false);
    const size_t from =
        prompt.text.starts_with(before) ? before.size() : end_of_messages(render_values(inputs, index, true));
    generation_prompt = prompt.text.substr(from);
  } catch (const Error&) {
    if (budget.is_spent()) throw;
    throw turn_error(index, why);
  }
  const std::string_view region = std::string_view(made.text).substr(begin, end - begin);
  size_t same = 0;
  while (same < std::min(region.size(), generation_prompt.size()) && region[same] == generation_prompt[same]) ++same;
  if (same < generation_prompt.size()) {
    // The prompt opens or closes thinking where the turn goes on otherwise: the turn begins in front of that.
    size_t mark_at = generation_prompt.npos;
    for (std::string_view mark : kThinkingMarks) {
      const size_t found = generation_prompt.find(mark);
      if (found != generation_prompt.npos && found > 0 && found <= same) mark_at = std::min(mark_at, found);
    }
    if (mark_at == generation_prompt.npos) throw turn_error(index, why + ", and it does not begin as that prompt ends");
    same = mark_at;
  }
  begin += same;
  end = begin + strip_right(std::string_view(made.text).substr(begin, end - begin)).size();
  if (!eos_.empty() && std::string_view(made.text).substr(end).starts_with(eos_) &&
      !std::string_view(made.text).substr(begin, end - begin).ends_with(eos_))
    end += eos_.size();
  return {index, begin, end};
}

}  // namespace moraine::jinja
