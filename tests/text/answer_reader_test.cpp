// Answers read back into messages: what templates render of a turn, and what is refused.
#include "text/chat/answer_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "base/file.h"
#include "text/chat/python_literal.h"
#include "text/chats.h"

namespace moraine {
namespace {

using testing::HasSubstr;

OrderedJson call_of(const OrderedJson& call) {
  OrderedJson arguments = call["function"]["arguments"];
  if (arguments.is_string()) arguments = parse_exact_json(arguments.get_ref<const std::string&>(), "");
  return {call["function"]["name"], arguments};
}

// Why `read` is not `wrote`, a message that was rendered as `answer`; "" when it is. What a template leaves out of its
// text cannot be read: thinking of earlier turns, content beside calls.
std::string difference(const OrderedJson& read, const OrderedJson& wrote, const std::string& answer) {
  const auto text_of = [&](const char* key) {
    const OrderedJson value = wrote.value(key, OrderedJson());
    return value.is_string() ? value.get<std::string>() : "";
  };
  for (const char* key : {"content", "reasoning_content"}) {
    const std::string text = text_of(key);
    if (read[key] != text && !(read[key] == "" && answer.find(text) == answer.npos))
      return std::string(key) + ": " + read[key].dump() + " for " + OrderedJson(text).dump();
  }
  const OrderedJson calls = wrote.value("tool_calls", OrderedJson::array());
  if (read["tool_calls"].size() != calls.size()) return "other calls: " + read["tool_calls"].dump();
  for (size_t i = 0; i < calls.size(); ++i) {
    if (call_of(read["tool_calls"][i]) != call_of(calls[i]))
      return call_of(read["tool_calls"][i]).dump() + " for " + call_of(calls[i]).dump();
  }
  return "";
}

// What the turns of a row come back as.
void expect_read_back(const ChatTemplate& chat, const AnswerReader& reader, const OrderedJson& row) {
  const ChatText text = chat.encoder->training_text(row["messages"], row["tools"]);
  size_t turn = 0;
  for (const OrderedJson& message : row["messages"]) {
    if (message["role"] != "assistant") continue;
    const auto [begin, end] = text.trained.at(turn++);
    const std::string answer = text.text.substr(begin, end - begin);
    const OrderedJson read = reader.read(answer, std::string_view(text.text).substr(0, begin), row["tools"], false);
    EXPECT_EQ(difference(read, message, answer), "") << answer;
  }
}

class AnswersOf : public testing::TestWithParam<std::pair<const char*, const char*>> {};
INSTANTIATE_TEST_SUITE_P(, AnswersOf,
                         testing::Values(std::pair{"qwen3_coder", "qwen3_coder"},
                                         std::pair{"qwen3_thinking_2507", "hermes"},
                                         std::pair{"qwen3_6", "qwen3_coder"}, std::pair{"qwen3_8", "qwen3_coder"},
                                         std::pair{"glm_4_5", "glm"}, std::pair{"kimi_k2", "kimi_k2"},
                                         std::pair{"minimax_m2", "minimax_m2"}),
                         [](const auto& info) { return std::string(info.param.first); });

TEST_P(AnswersOf, ATemplatesTurnsAreReadBack) {
  const auto [name, syntax] = GetParam();
  const fs::path folder = kGolden / "templates/released";
  for (const OrderedJson& row : golden_rows("released/" + std::string(name))) {
    SCOPED_TRACE(row["messages"].dump());
    const auto chat = make_chat_template((folder / (std::string(name) + ".jinja")).string(),
                                         Json::parse(row["options"].dump()), "/no/such/folder");
    const AnswerReader reader(*chat, "auto", "--parse");
    ASSERT_EQ(reader.syntax(), syntax);
    expect_read_back(*chat, reader, row);
  }
}

TEST(AnswerReader, ReadsThoseOfBuiltInFormats) {
  for (const char* name : {"qwen3", "qwen3_instruct_2507", "qwen3_5", "deepseek_v4"}) {
    const auto chat = make(name);
    const AnswerReader reader(*chat, "auto", "--parse");
    EXPECT_EQ(reader.syntax(), name == std::string("deepseek_v4") ? name
                               : name == std::string("qwen3_5")   ? "qwen3_coder"
                                                                  : "hermes");
    for (OrderedJson row : golden_rows("released/qwen3_coder")) {
      for (OrderedJson& message : row["messages"]) message.erase("reasoning_content");
      expect_read_back(*chat, reader, row);
    }
  }
}

TEST(AnswerReader, RefusesWhatItCannotTell) {
  const Folder folder;
  folder.write("plain.jinja",
               "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
               "{% if add_generation_prompt %}[assistant] {% endif %}");
  const auto chat = make_chat_template((folder.path / "plain.jinja").string(), Json::object(), folder.path);
  EXPECT_THAT(error_of([&] { AnswerReader(*chat, "auto", "--parse"); }),
              HasSubstr("plain.jinja are in no syntax that can be read (--syntax hermes, qwen3_coder, glm"));
  EXPECT_THAT(error_of([&] { AnswerReader(*chat, "xml", "--syntax"); }),
              HasSubstr("--syntax: unknown syntax 'xml' (available: auto, hermes"));
  EXPECT_THAT(error_of([&] { AnswerReader(*make("react", R"({"base":"qwen3"})"), "auto", "--parse"); }),
              HasSubstr("answers in react are in no syntax"));
  const OrderedJson read = AnswerReader(*chat, "hermes", "").read("Hello.</s>", "", nullptr, false);
  EXPECT_EQ(read["content"], "Hello.");
}

OrderedJson parse(const char* syntax, const std::string& answer, const AnswerFrame& frame = {}) {
  return at_place("row", [&] { return find_answer_syntax(syntax)->parse(answer, frame); });
}

TEST(AnswerSyntax, EveryMalformedAnswerIsOneClearError) {
  const AnswerFrame im_end{.prompt = "", .end_of_turn = "<|im_end|>"}, thinks{.prompt = "a<think>\n"},
      thought{.prompt = "<think>\n\n</think>\n\n"};
  const auto expect = [](const char* syntax, const std::string& answer, const AnswerFrame& frame, const char* part) {
    EXPECT_THAT(error_of([&] { parse(syntax, answer, frame); }), HasSubstr(part)) << answer;
  };
  expect("hermes", "Hi", im_end, "row: no <|im_end|> at the end (only whole tool calls");
  expect("hermes", "Hi<|im_end|>x", im_end, "text after <|im_end|>");
  expect("hermes", "Hi", thinks, "no </think> after the thinking");
  expect("hermes", "<think>a<think></think>b", {}, "<think> in the thinking");
  expect("hermes", "a</think>b", {}, "</think> in the content");
  expect("hermes", "<think>a</think>b", thought, "<think> after a prompt that ends thinking");
  expect("hermes", "a</tool_call>", {}, "</tool_call> without <tool_call>");
  expect("hermes", "<tool_call>\n{\"name\": \"f\"", {}, "expected a JSON object in <tool_call>");
  expect("hermes", "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", {}, "a tool call is not {\"name\", \"arguments\"}");
  expect("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>", {}, "are no JSON object");
  expect("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> and", {}, "expected <tool_call> or");
  expect("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=a>\n1", {}, "an argument that is not closed");
  expect("qwen3_coder", "<tool_call>\n<function=f\n>", {}, "a function's name that does not end");
  expect("qwen3_coder", "<tool_call>\n<function=>\n</function>\n</tool_call>", {}, "a call without a name");
  expect("qwen3_coder",
         "<tool_call><function=f><parameter=a>1</parameter><parameter=a>1</parameter></function></tool_call>", {},
         "the argument 'a' is given twice");
  expect("qwen3_coder", "<tool_call><function=f></function>", {}, "expected the end of the tool call, at the end");
  expect("glm", "<tool_call>f\n<arg_key>a</arg_key>\n</tool_call>", {}, "expected the value of an argument");
  expect("glm", "<tool_call>f\nx</tool_call>", {}, "expected an argument or the end of the call");
  expect("minimax_m2", "<minimax:tool_call>\n</minimax:tool_call>", {}, "expected the name of a function");
  expect("kimi_k2", "<|tool_calls_section_begin|><|tool_calls_section_end|>", {}, "without a call");
  expect("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>f<|tool_call_argument_begin|>{}<|tool_call_end|>",
         {}, "'f' is not functions.NAME:NUMBER");
  expect("gpt_oss", "Hi", {}, "a message without <|message|>");
  expect("gpt_oss", "<|channel|>final<|message|>Hi", {}, "no <|return|> at the end");
  expect("gpt_oss", "<|channel|>loud<|message|>Hi<|return|>", {}, "in no known channel");
  expect("gpt_oss", "<|channel|>final<|message|>Hi<|return|>a", {}, "text after the end");
  expect("gpt_oss", " to=browser.open<|channel|>commentary<|message|>{}<|call|>", {},
         "'browser.open', which is no function");
  expect("deepseek_v4", "Hi", {}, "at the end");
}

TEST(AnswerSyntax, WhatLacksItsEndIsReadWhereThatIsAllowed) {
  const AnswerFrame frame{.prompt = "", .end_of_turn = "<|im_end|>", .may_lack_end = true};
  EXPECT_EQ(parse("hermes", "Hi\n", frame)["content"], "Hi\n");
  EXPECT_EQ(parse("gpt_oss", "<|channel|>final<|message|>Hi", frame)["content"], "Hi");
  EXPECT_EQ(parse("deepseek_v4", "Hi", frame)["content"], "Hi");
  const AnswerFrame strict{.prompt = "", .end_of_turn = "<|im_end|>"};
  const std::string whole =
      "Now:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\": 12345678901234567890123}}\n</tool_call>";
  const OrderedJson message = parse("hermes", whole, strict);
  EXPECT_EQ(message["content"], "Now:");
  EXPECT_EQ(message["tool_calls"][0]["function"]["arguments"], R"({"n": 12345678901234567890123})");
}

TEST(AnswerSyntax, HarmonyHasItsChannels) {
  const OrderedJson final =
      parse("gpt_oss",
            "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>");
  EXPECT_EQ(final["reasoning_content"], "Think.");
  EXPECT_EQ(final["content"], "Hi");
  for (const char* call : {"<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
                           " to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}<|call|>",
                           "<|channel|>commentary to=functions.f<|message|>{\"a\": 1}"}) {
    const OrderedJson called = parse("gpt_oss", call);
    EXPECT_EQ(call_of(called["tool_calls"][0]), OrderedJson::parse(R"(["f", {"a": 1}])"));
  }
  const OrderedJson preamble =
      parse("gpt_oss",
            "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant to=functions.f<|channel|>"
            "commentary json<|message|>{}<|call|>");
  EXPECT_EQ(preamble["content"], "Let me see.");
  EXPECT_EQ(preamble["tool_calls"].size(), 1u);
}

TEST(AnswerSyntax, BareArgumentsAreWhatTheirSchemaSays) {
  const AnswerFrame typed{.prompt = "", .end_of_turn = "", .may_lack_end = false, .tools = OrderedJson::parse(R"([
    {"type": "function", "function": {"name": "f", "parameters": {"properties": {
      "n": {"type": "integer"}, "b": {"type": "boolean"}, "l": {"type": "array"}, "s": {"type": "string"},
      "u": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "o": {"type": ["integer", "null"]}, "e": {"enum": [1]}}}}}])")};
  const auto argument = [&](const std::string& key, const std::string& value, const AnswerFrame& frame) {
    const OrderedJson message =
        parse("glm", "<tool_call>f\n<arg_key>" + key + "</arg_key>\n<arg_value>" + value + "</arg_value>\n</tool_call>",
              frame);
    return parse_exact_json(message["tool_calls"][0]["function"]["arguments"].get<std::string>(), "")[key].dump();
  };
  EXPECT_EQ(argument("n", "7", typed), "7");
  EXPECT_EQ(argument("n", "7", {}), "\"7\"") << "nothing says that it is a number";
  EXPECT_EQ(argument("b", "True", typed), "true");
  EXPECT_EQ(argument("l", "['a', \"it's\", 1.5, None, {'k': (1, 2)}]", typed), R"(["a","it's",1.5,null,{"k":[1,2]}])");
  EXPECT_EQ(argument("s", "7", typed), "\"7\"");
  EXPECT_EQ(argument("u", "7", typed), "\"7\"");
  EXPECT_EQ(argument("o", "None", typed), "null");
  EXPECT_EQ(argument("e", "1", typed), "\"1\"");
  for (const auto& [key, value] : {std::pair{"n", "seven"}, {"n", "[7]"}, {"b", "1"}, {"l", "[1"}})
    EXPECT_THAT(error_of([&] { argument(key, value, typed); }), HasSubstr("which its schema does not allow"));
}

// What an answer says: its content, its thinking, and each call's id, name and arguments.
std::string said(const char* syntax, const std::string& answer, const AnswerFrame& frame = {}) {
  const OrderedJson message = parse(syntax, answer, frame);
  std::string text = message["content"].get<std::string>();
  if (message["reasoning_content"] != "") text += "(" + message["reasoning_content"].get<std::string>() + ")";
  for (const OrderedJson& call : message["tool_calls"]) {
    text += "|" + call.value("id", "") + " " + call["function"]["name"].get<std::string>() + " " +
            call["function"]["arguments"].get<std::string>();
  }
  return text;
}

TEST(AnswerSyntax, LlamaCallsAreJson) {
  const AnswerFrame frame{.prompt = "", .end_of_turn = "<|eot_id|>"};
  EXPECT_EQ(said("llama3", R"({"name": "f", "parameters": {"a": 1}}<|eot_id|>)", frame), R"(| f {"a": 1})");
  EXPECT_EQ(said("llama3",
                 R"(<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}<|eom_id|>)", frame),
            "| f {}| g {}");
  EXPECT_EQ(said("llama3", R"(<|python_tag|>search.call(query="a, "b" c", n="2")<|eom_id|>)", frame),
            R"(| search {"query": "a, \"b\" c", "n": "2"})");
  EXPECT_EQ(said("llama3", R"({"name": "Bob", "age": 3}<|eot_id|>)", frame), R"({"name": "Bob", "age": 3})");
  EXPECT_EQ(said("llama4", R"(<|python_start|>Hm.<|python_end|>{"name": "f", "parameters": {"a": 1}})"),
            R"(Hm.| f {"a": 1})");
  const auto expect = [&](const char* syntax, const char* answer, const char* part) {
    EXPECT_THAT(error_of([&] { parse(syntax, answer, frame); }), HasSubstr(part)) << answer;
  };
  expect("llama3", "Hi", "no <|eot_id|> at the end");
  expect("llama3", R"({"name": "f", "parameters": {})", "expected a tool call");
  expect("llama3", R"({"name": "f", "parameters": {}} and)", "expected a tool call, at 'and'");
  expect("llama3", "<|python_tag|>print(1)", "expected a tool call after <|python_tag|>");
  expect("llama4", "<|python_start|>[f(a=1)]", "without <|python_end|>");
  expect("llama4", "<|python_start|>[f(a=1)]<|python_end|>", "a call in Python is not read");
}

TEST(AnswerSyntax, MistralCallsOldAndNew) {
  const AnswerFrame frame{.prompt = "", .end_of_turn = "</s>"};
  EXPECT_EQ(
      said(
          "mistral",
          R"([TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}, {"name": "g", "arguments": {}}]</s>)",
          frame),
      R"(|abcdefghi f {"a": 1}| g {})");
  EXPECT_EQ(said("mistral", R"(Now.[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}</s>)", frame),
            R"(Now.|abcdefghi f {"a": 1}| g {})");
  EXPECT_EQ(said("mistral", "[THINK]Hm.[/THINK]Hi</s>", frame), "Hi(Hm.)");
  EXPECT_THAT(error_of([&] { parse("mistral", "[TOOL_CALLS]f{}</s>", frame); }), HasSubstr("without arguments"));
  EXPECT_THAT(error_of([&] { parse("mistral", "[TOOL_CALLS][]</s>", frame); }), HasSubstr("without a call"));
  EXPECT_THAT(error_of([&] { parse("mistral", "[TOOL_CALLS][{\"name\": \"f\"}]</s>", frame); }),
              HasSubstr("a tool call is not {\"name\", \"arguments\"}"));
}

TEST(AnswerSyntax, DeepseekCallsOfV3AndV31) {
  const AnswerFrame frame{.prompt = "", .end_of_turn = "<｜end▁of▁sentence｜>"};
  const std::string call = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>";
  EXPECT_EQ(said("deepseek_v3",
                 "<think>\nHm.\n</think>\n\nNow.<｜tool▁calls▁begin｜>" + call + "\n" + call +
                     "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
                 frame),
            R"(Now.(Hm.)| f {"a": 1}| f {"a": 1})");
  EXPECT_EQ(said("deepseek_v3_1",
                 "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                 frame),
            "| f {}");
  EXPECT_THAT(error_of([&] { parse("deepseek_v3_1", "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>", frame); }),
              HasSubstr("without a call"));
  EXPECT_THAT(error_of([&] { parse("deepseek_v3", "a<｜tool▁calls▁end｜>", frame); }),
              HasSubstr("without <｜tool▁calls▁begin｜>"));
}

TEST(AnswerSyntax, GemmaAndCommandHaveTheirOwn) {
  EXPECT_EQ(said("gemma4", R"(<|channel>thought
Hm.
<channel|><|tool_call>call:f{a:[1,<|"|>x,}<|"|>],b:{c:null,d:true}}<tool_call|><|tool_response>)",
                 {.prompt = "", .end_of_turn = "<turn|>"}),
            R"((Hm.)| f {"a": [1, "x,}"], "b": {"c": null, "d": true}})");
  EXPECT_THAT(error_of([&] { parse("gemma4", "<|tool_call>call:f{a:x}<tool_call|>"); }),
              HasSubstr("a value of an argument"));
  const AnswerFrame frame{.prompt = "", .end_of_turn = "<|END_OF_TURN_TOKEN|>"};
  EXPECT_EQ(said("command",
                 R"(<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[
    {"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}
]<|END_ACTION|><|END_OF_TURN_TOKEN|>)",
                 frame),
            R"((Hm.)|0 f {"a": 1})");
  EXPECT_EQ(said("command", "<|START_RESPONSE|>Hi<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", frame), "Hi");
  EXPECT_THAT(error_of([&] { parse("command", "Hi<|END_OF_TURN_TOKEN|>", frame); }),
              HasSubstr("expected <|START_RESPONSE|>"));
}

TEST(PythonLiteral, IsReadAsReprWritesIt) {
  EXPECT_EQ(python_literal(R"(['\n\x41\u00e9\U0001f600\'', "\\"])")->dump(), R"(["\nAé😀'","\\"])");
  EXPECT_EQ(python_literal("{}")->dump(), "{}");
  EXPECT_EQ(python_literal("(1,)")->dump(), "[1]");
  for (const char* text :
       {"", "[", "[1 2]", "'a", "{1: 2}", "{'a': 1, 'a': 2}", "x", "'\\ud800'", "'\\q'", "1 2", "--"})
    EXPECT_FALSE(python_literal(text)) << text;
  EXPECT_FALSE(python_literal(std::string(10'000, '[')));
}

TEST(AnswerSyntax, MutatedAnswersEndInAMessageOrAnError) {
  const std::vector<std::string> pieces{"<tool_call>",
                                        "</tool_call>",
                                        "<function=f>",
                                        "</function>",
                                        "<parameter=a>",
                                        "</parameter>",
                                        "<think>",
                                        "</think>",
                                        "<|channel|>",
                                        "<|message|>",
                                        "<|end|>",
                                        "<|call|>",
                                        "<|start|>assistant",
                                        "analysis",
                                        "final",
                                        "to=functions.f",
                                        "{}",
                                        "{\"name\": \"f\", \"arguments\": {}}",
                                        "<arg_key>",
                                        "</arg_key>",
                                        "<arg_value>",
                                        "</arg_value>",
                                        "\n",
                                        " ",
                                        "a",
                                        "\"",
                                        "<minimax:tool_call>",
                                        "</minimax:tool_call>",
                                        "<invoke name=\"",
                                        "\">",
                                        "</invoke>",
                                        "<parameter name=\"",
                                        "<|tool_calls_section_begin|>",
                                        "<|tool_call_begin|>",
                                        "functions.f:0",
                                        "<|tool_call_argument_begin|>",
                                        "<|tool_call_end|>",
                                        "<|tool_calls_section_end|>",
                                        "<|im_end|>",
                                        "[TOOL_CALLS]",
                                        "[ARGS]",
                                        "<|python_tag|>",
                                        "{\"name\": \"f\", \"parameters\": {}}",
                                        "<|tool_call>call:f{",
                                        "<tool_call|>",
                                        "<|START_ACTION|>[",
                                        "<｜tool▁calls▁begin｜>",
                                        "<｜tool▁call▁begin｜>",
                                        "<｜tool▁sep｜>",
                                        "\\",
                                        "é"};
  std::mt19937 random(7);
  size_t read = 0;
  for (int i = 0; i < 30'000; ++i) {
    std::string answer;
    for (unsigned n = random() % 14; n > 0; --n) answer += pieces[random() % pieces.size()];
    const AnswerFrame frame{.prompt = random() % 2 == 0 ? "" : "<think>\n",
                            .end_of_turn = random() % 2 == 0 ? "" : "<|im_end|>",
                            .may_lack_end = random() % 2 == 0};
    for (const AnswerSyntax& syntax : answer_syntaxes()) {
      try {
        const OrderedJson message = syntax.parse(answer, frame);
        ++read;
        ASSERT_EQ(message.size(), 4u);
      } catch (const Error& error) {
        ASSERT_EQ(error.kind, ErrorKind::kInput);
      }
    }
  }
  EXPECT_GT(read, 1000u);
}

// Conversations through released templates, which are not in this repository: MORAINE_JINJA_ROWS names a folder with
// rows.jsonl and templates/.
TEST(AnswerReader, ReadsBackTheTurnsOfReleasedTemplates) {
  const char* folder = std::getenv("MORAINE_JINJA_ROWS");
  if (folder == nullptr) GTEST_SKIP() << "MORAINE_JINJA_ROWS is not set";
  std::ifstream rows(std::string(folder) + "/rows.jsonl");
  std::map<std::string, std::array<size_t, 4>> counts;  // template: turns, of which with calls, other, refused
  std::map<std::string, std::string> syntaxes;
  for (std::string line; std::getline(rows, line);) {
    const OrderedJson row = parse_exact_json(line, "row");
    if (row["text"].is_null() || row["continue_final_message"] == true) continue;
    const std::string name = row["template"].get<std::string>();
    OrderedJson options = row["special_tokens"];
    for (const auto& [key, value] : row["kwargs"].items()) options[key] = value;
    options["now"] = row["now"];
    const auto chat = make_chat_template(std::string(folder) + "/templates/" + name + ".jinja",
                                         Json::parse(options.dump()), "/no/such/folder");
    std::unique_ptr<AnswerReader> reader;
    try {
      reader = std::make_unique<AnswerReader>(*chat, "auto", "--parse");
    } catch (const Error&) {
      syntaxes.emplace(name, "-");
      continue;
    }
    syntaxes[name] = reader->syntax();
    ChatText text;
    try {
      text = chat->encoder->training_text(row["messages"], row["tools"]);
    } catch (const Error&) {
      continue;
    }
    auto& count = counts[name];
    size_t turn = 0;
    for (const OrderedJson& message : row["messages"]) {
      if (message["role"] != "assistant" || turn >= text.trained.size()) continue;
      const auto [begin, end] = text.trained[turn++];
      const std::string answer = text.text.substr(begin, end - begin);
      ++count[0];
      count[1] += message.contains("tool_calls");
      std::string why;
      try {
        why = difference(reader->read(answer, std::string_view(text.text).substr(0, begin), row["tools"], false),
                         message, answer);
        count[2] += !why.empty();
      } catch (const Error& error) {
        ++count[3];
        why = error.what();
      }
      if (!why.empty() && std::getenv("SHOW") != nullptr)
        std::printf("%s / %s: %s\n  %s\n", name.c_str(), row["conversation"].get<std::string>().c_str(), why.c_str(),
                    OrderedJson(answer).dump().c_str());
    }
  }
  for (const auto& [name, syntax] : syntaxes) {
    const auto& count = counts[name];
    std::printf("%-26s %-12s %4zu turns, %3zu with calls, %3zu read otherwise, %3zu refused\n", name.c_str(),
                syntax.c_str(), count[0], count[1], count[2], count[3]);
  }
}

}  // namespace
}  // namespace moraine
