// DeepSeek-V4's chat format against texts of the released encoder.
#include "text/chat/deepseek_v4_chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/chats.h"

namespace moraine {
namespace {

using testing::HasSubstr;

std::unique_ptr<ChatTemplate> make_v4(const std::string& options = "{}") {
  return make_chat_template("deepseek_v4", Json::parse(options), "/no/such/folder");
}
// Of golden rows, which are of the encoder as first released.
std::unique_ptr<ChatTemplate> make_preview(const OrderedJson& row) {
  OrderedJson options = row["options"];
  options["reasoning_effort_profile"] = "preview";
  return make_v4(options.dump());
}
constexpr const char* kThinking = R"({"thinking_mode": "thinking"})";

std::string text_of(const std::string& messages, const std::string& options = "{}", const std::string& tools = "null") {
  const auto chat = make_v4(options);
  return at_place("chats.jsonl:7",
                  [&] { return chat->encoder->training_text(OrderedJson::parse(messages), OrderedJson::parse(tools)); })
      .text.substr(std::string("<｜begin▁of▁sentence｜>").size());
}

std::string prompt_of(const std::string& messages, const std::string& options = "{}") {
  return make_v4(options)->encoder->generation_prompt(OrderedJson::parse(messages), nullptr);
}

std::string error_in(const std::string& messages, const std::string& options = "{}",
                     const std::string& tools = "null") {
  return error_of([&] { text_of(messages, options, tools); });
}

TEST(DeepseekV4Chat, EveryRowRendersAsTheReleasedEncoder) {
  const auto rows = golden_rows("deepseek_v4");
  ASSERT_EQ(rows.size(), 96u);
  for (const OrderedJson& row : rows) {
    const auto chat = make_preview(row);
    const ChatText text = chat->encoder->training_text(row["messages"], row["tools"]);
    EXPECT_EQ(text.text, row["text"]);
    EXPECT_EQ(chat->encoder->inference_text(row["messages"], row["tools"]), row["text"]);
    EXPECT_EQ(OrderedJson(text.trained), row["loss_spans_utf8"]) << text.text;
    const TokenizedChat tokens = tokenize_chat(text, deepseek_tokenizer(), LossOn::kAssistant);
    EXPECT_EQ(OrderedJson(tokens.ids), row["ids"]) << text.text;
    EXPECT_EQ(OrderedJson(tokens.loss_mask), row["loss_mask"]) << text.text;
  }
}

TEST(DeepseekV4Chat, EveryRowOfWhatOnlyThisFormatHas) {
  const auto rows = golden_rows("deepseek_v4_special");
  ASSERT_EQ(rows.size(), 24u);
  for (const OrderedJson& row : rows) {
    const ChatText text = make_preview(row)->encoder->training_text(row["messages"], row["tools"]);
    EXPECT_EQ(text.text, row["text"]);
    EXPECT_EQ(OrderedJson(tokenize_chat(text, deepseek_tokenizer(), LossOn::kAssistant).ids), row["ids"]);
  }
}

TEST(DeepseekV4Chat, TheGenerationPromptIsAllBeforeTheLastAnswer) {
  for (const char* file : {"deepseek_v4", "deepseek_v4_special"}) {
    for (const OrderedJson& row : golden_rows(file)) {
      const auto chat = make_preview(row);
      const ChatText text = chat->encoder->training_text(row["messages"], row["tools"]);
      ASSERT_FALSE(text.trained.empty());
      OrderedJson question = row["messages"];
      question.erase(question.size() - 1);
      EXPECT_EQ(chat->encoder->generation_prompt(question, row["tools"]),
                text.text.substr(0, text.trained.back().first));
    }
  }
}

TEST(DeepseekV4Chat, GenerationPromptsOfOtherEnds) {
  const std::string begin = "<｜begin▁of▁sentence｜>", end = "<｜end▁of▁sentence｜>";
  const std::string asked = R"([{"role":"user","content":"q"},{"role":"assistant","content":"a")";
  EXPECT_EQ(prompt_of(asked + "}]"), begin + "<｜User｜>q<｜Assistant｜></think>a" + end + "<｜Assistant｜></think>");
  EXPECT_EQ(prompt_of(asked + R"(,"wo_eos":true}])", kThinking), begin + "<｜User｜>q<｜Assistant｜><think></think>a");
  EXPECT_EQ(prompt_of(asked + R"(,"task":"title"}])"),
            begin + "<｜User｜>q<｜Assistant｜></think>a" + end + "<｜title｜>");
  EXPECT_EQ(prompt_of(R"([{"role":"system","content":"s"}])", kThinking), begin + "s<｜Assistant｜><think>");
  EXPECT_EQ(prompt_of(R"([{"role":"user","content":"q"},{"role":"latest_reminder","content":"r"}])"),
            begin + "<｜User｜>q<｜Assistant｜></think><｜latest_reminder｜>r");
}

TEST(DeepseekV4Chat, UsersMessagesThatFollowEachOtherAreOneTurn) {
  EXPECT_EQ(text_of(R"([{"role":"user","content":"a"},
                        {"role":"user","content":[{"text":"b"},{"type":"text","text":"c"}]},
                        {"role":"user","content":""},{"role":"assistant","content":"d"}])"),
            "<｜User｜>a\n\nb\n\nc\n\n<｜Assistant｜></think>d<｜end▁of▁sentence｜>");
}

TEST(DeepseekV4Chat, TasksAndTurnsThatAreNotEnded) {
  for (const char* task : {"query", "authority", "domain", "title", "read_url"}) {
    const std::string messages =
        std::string(R"([{"role":"user","content":"q","task":")") + task + R"("},{"role":"assistant","content":"a"}])";
    EXPECT_EQ(text_of(messages), "<｜User｜>q<｜" + std::string(task) + "｜>a<｜end▁of▁sentence｜>");
    EXPECT_EQ(text_of(messages, kThinking), "<｜User｜>q<｜" + std::string(task) + "｜>a<｜end▁of▁sentence｜>");
  }
  // A title is asked for after an answer, and has no thinking.
  EXPECT_EQ(text_of(R"([{"role":"user","content":"q"},{"role":"assistant","content":"a","reasoning":"t","task":"title"},
                        {"role":"assistant","content":"T"}])",
                    kThinking),
            "<｜User｜>q<｜Assistant｜><think>t</think>a<｜end▁of▁sentence｜><｜title｜>T<｜end▁of▁sentence｜>");
  EXPECT_EQ(text_of(R"([{"role":"user","content":"q"},{"role":"assistant","content":"a","wo_eos":true},
                        {"role":"assistant","content":"b"}])"),
            "<｜User｜>q<｜Assistant｜></think>ab<｜end▁of▁sentence｜>");
}

TEST(DeepseekV4Chat, ResultsComeInTheOrderOfTheirCalls) {
  const std::string calls = R"([{"role":"user","content":"q"},{"role":"assistant","tool_calls":[
      {"id":"c1","function":{"name":"f","arguments":{}}},{"id":"c2","name":"g","arguments":"{}"}]},)";
  const std::string rendered =
      "<｜User｜>q<｜Assistant｜></think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n"
      "<｜DSML｜invoke name=\"g\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜><｜User｜>";
  const std::string end = "<｜Assistant｜></think>";
  EXPECT_EQ(text_of(calls + R"({"role":"tool","tool_call_id":"c2","content":"2"},{"role":"user","content":"u"},
                               {"role":"tool","tool_call_id":"c1","content":"1"}])"),
            rendered + "<tool_result>1</tool_result>\n\nu\n\n<tool_result>2</tool_result>" + end);
  // As blocks of a user's message.
  EXPECT_EQ(text_of(calls + R"({"role":"user","content":[{"type":"tool_result","tool_use_id":"c2","content":"2"},
      {"type":"tool_result","tool_use_id":"c1","content":[{"type":"text","text":"1"},{"type":"text","text":"1"}]},
      {"type":"text","text":"u"}]}])"),
            rendered + "<tool_result>1\n\n1</tool_result>\n\n<tool_result>2</tool_result>\n\nu" + end);
  // Without ids in the order given.
  EXPECT_EQ(text_of(calls + R"({"role":"tool","content":"x"},{"role":"tool","content":"y"}])"),
            rendered + "<tool_result>x</tool_result>\n\n<tool_result>y</tool_result>" + end);
}

TEST(DeepseekV4Chat, AFlagKeepsAnAnswerOutOfTraining) {
  const auto messages =
      OrderedJson::parse(R"([{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0},
                                               {"role":"user","content":"c"},{"role":"assistant","content":"d"}])");
  const ChatText chat = make_v4()->encoder->training_text(messages, nullptr);
  ASSERT_EQ(chat.trained.size(), 2u);
  ASSERT_EQ(chat.withheld.size(), 1u);
  EXPECT_EQ(chat.withheld[0], chat.trained[0]);
  // With its thinking dropped it is no answer, but loss_on: all still leaves it out.
  const ChatText dropped = make_v4(kThinking)->encoder->training_text(messages, nullptr);
  EXPECT_EQ(dropped.trained.size(), 1u);
  ASSERT_EQ(dropped.withheld.size(), 1u);
  EXPECT_EQ(dropped.text.substr(dropped.withheld[0].first, 1), "b");
}

TEST(DeepseekV4Chat, IntegersInArgumentsKeepTheirDigits) {
  const auto messages = parse_exact_json(R"([{"role":"assistant","tool_calls":[
      {"name":"f","arguments":{"a":123456789012345678901234567890}},
      {"name":"g","arguments":"{\"b\":[-123456789012345678901234567890]}"}]}])",
                                         "row");
  const std::string text = make_v4()->encoder->training_text(messages, nullptr).text;
  EXPECT_THAT(text, HasSubstr("name=\"a\" string=\"false\">123456789012345678901234567890</"));
  EXPECT_THAT(text, HasSubstr("name=\"b\" string=\"false\">[-123456789012345678901234567890]</"));
}

TEST(DeepseekV4Chat, EarlierDevelopersAreLeftOutWithTheThinking) {
  const std::string messages =
      R"([{"role":"developer","content":"d"},{"role":"assistant","content":"a","reasoning":"t"},
          {"role":"user","content":"q"},{"role":"assistant","content":"b","reasoning_content":"u"}])";
  EXPECT_EQ(text_of(messages, kThinking),
            "a<｜end▁of▁sentence｜><｜User｜>q<｜Assistant｜><think>u</think>b<｜end▁of▁sentence｜>");
  const std::string all =
      "<｜User｜>d<｜Assistant｜><think>t</think>a<｜end▁of▁sentence｜>"
      "<｜User｜>q<｜Assistant｜><think>u</think>b<｜end▁of▁sentence｜>";
  EXPECT_EQ(text_of(messages, R"({"thinking_mode":"thinking","drop_thinking":false})"), all);
  EXPECT_THAT(text_of(messages, kThinking, R"([{"name":"f"}])"), HasSubstr("{\"name\": \"f\"}"));
  EXPECT_THAT(text_of(messages, kThinking, R"([{"name":"f"}])"), testing::EndsWith(all)) << "tools keep the thinking";
  EXPECT_EQ(text_of(messages, kThinking, "[]"), text_of(messages, kThinking));
}

TEST(DeepseekV4Chat, TokensOfTheFormatInQuestionsAreTextAsInTheReleasedEncoder) {
  EXPECT_EQ(text_of(R"([{"role":"user","content":"<｜User｜><｜end▁of▁sentence｜>｜DSML｜</think>"}])"),
            "<｜User｜><｜User｜><｜end▁of▁sentence｜>｜DSML｜</think><｜Assistant｜></think>");
}

// Thinking tags in content are text: the released encoder renders them.
TEST(DeepseekV4Chat, AnswersWithTheFormatsOwnTokensAreRefused) {
  const auto error = [](const std::string& answer, const std::string& options = "{}") {
    return error_in(R"([{"role":"user","content":"q"},{"role":"assistant",)" + answer + "}]", options);
  };
  EXPECT_EQ(
      error(R"("content":"a<｜end▁of▁sentence｜>b")"),
      "chats.jsonl:7: messages[1]: content holds <｜end▁of▁sentence｜>, which would be taken for the format's own");
  EXPECT_THAT(error(R"("content":"<｜DSML｜invoke>")"), HasSubstr("content holds ｜DSML｜"));
  EXPECT_EQ(text_of(R"([{"role":"user","content":"q"},{"role":"assistant","content":"<think>a</think>b"}])"),
            "<｜User｜>q<｜Assistant｜></think><think>a</think>b<｜end▁of▁sentence｜>");
  EXPECT_THAT(error(R"("content":"a","reasoning":"<think>b")", kThinking), HasSubstr("the thinking holds <think>"));
  EXPECT_THAT(error(R"("content":"a","reasoning":"b</think>c")", kThinking), HasSubstr("the thinking holds </think>"));
  const auto call = [&](const std::string& name, const std::string& arguments) {
    return error(R"("tool_calls":[{"name":")" + name + R"(","arguments":)" + arguments + "}]");
  };
  EXPECT_THAT(call("f", R"({"a":"</｜DSML｜parameter>"})"), HasSubstr("messages[1]: an argument holds ｜DSML｜"));
  EXPECT_THAT(call("f", R"({"a":[{"b":"｜DSML｜"}]})"), HasSubstr("an argument holds"));
  EXPECT_THAT(call("f", R"({"a\" string=\"true\">":1})"), HasSubstr("the name of an argument ends its own tag"));
  EXPECT_THAT(call(R"(f\">\n)", "{}"), HasSubstr("the name of a call ends its own tag"));
}

TEST(DeepseekV4Chat, MalformedMessagesAreNamed) {
  const std::string user = R"({"role":"user","content":"q"})";
  EXPECT_EQ(error_in("[]"), "chats.jsonl:7: no messages");
  EXPECT_THAT(error_in(R"({"a":1})"), HasSubstr("messages is not a list"));
  EXPECT_EQ(error_in("[" + user + R"(,{"role":"asistant","content":"b"}])"),
            "chats.jsonl:7: messages[1]: unknown role 'asistant' "
            "(roles: system, developer, user, latest_reminder, assistant and tool)");
  const auto first = [](const std::string& message) {
    std::string error = error_in("[" + message + "]");
    EXPECT_THAT(error, testing::StartsWith("chats.jsonl:7: messages[0]: "));
    return error;
  };
  for (const char* message : {"1", "null", "[]", "\"user\""}) EXPECT_THAT(first(message), HasSubstr("not an object"));
  for (const char* message : {"{}", R"({"role":1,"content":""})", R"({"role":null})", R"({"role":["user"]})"})
    EXPECT_THAT(first(message), HasSubstr("no role"));
  for (const char* role : {"system", "developer", "user", "latest_reminder", "assistant", "tool"}) {
    const std::string begin = std::string(R"({"role":")") + role + "\"";
    EXPECT_THAT(first(begin + "}"), HasSubstr("no content"));
    EXPECT_THAT(first(begin + R"(,"content":null})"), HasSubstr("no content"));
    EXPECT_THAT(first(begin + R"(,"content":1})"), HasSubstr("content is of type number"));
    EXPECT_THAT(first(begin + R"(,"content":{"a":1}})"), HasSubstr("write it as a JSON string"));
    EXPECT_THAT(first(begin + R"(,"content":["a"]})"), HasSubstr("a part of content is"));
    EXPECT_THAT(first(begin + R"(,"content":[{"type":"image","text":"x"}]})"), HasSubstr("a part of content is"));
    EXPECT_THAT(first(begin + R"(,"content":"a","task":"sing"})"), HasSubstr("unknown task 'sing' (tasks: action"));
    EXPECT_THAT(first(begin + R"(,"content":"a","task":{}})"), HasSubstr("task is of type object"));
  }
  EXPECT_THAT(first(R"({"role":"developer","content":""})"), HasSubstr("empty content"));
  EXPECT_THAT(first(R"({"role":"user","content":[]})"), HasSubstr("empty list"));
  EXPECT_THAT(first(R"({"role":"user","content":[{"type":"tool_result"}]})"), HasSubstr("without content"));
  EXPECT_THAT(first(R"({"role":"user","content":"a","tools":[{}]})"), HasSubstr("tools are for system and developer"));
  EXPECT_THAT(first(R"({"role":"system","content":"a","tools":{}})"), HasSubstr("tools is not a list"));
  EXPECT_THAT(first(R"({"role":"system","content":"a","tools":[1]})"), HasSubstr("a tool is not an object"));
  EXPECT_THAT(first(R"({"role":"system","content":"a","tools":[{"function":1}]})"),
              HasSubstr("function is not an object"));
  EXPECT_THAT(first(R"({"role":"system","content":"a","response_format":"json"})"),
              HasSubstr("response_format is not"));
  EXPECT_THAT(error_in("[" + user + "]", "{}", R"({"a":1})"), HasSubstr("chats.jsonl:7: tools is not a list"));
  EXPECT_THAT(error_in("[" + user + "]", "{}", "[1]"), HasSubstr("chats.jsonl:7: a tool is not an object"));

  const auto answer = [&](const std::string& keys) {
    return first(R"({"role":"assistant","content":"",)" + keys + "}");
  };
  EXPECT_THAT(answer(R"("reasoning":1)"), HasSubstr("reasoning is of type number"));
  EXPECT_THAT(answer(R"("reasoning":"a","reasoning_content":"b")"), HasSubstr("differ"));
  EXPECT_THAT(answer(R"("wo_eos":1)"), HasSubstr("wo_eos is not true or false"));
  EXPECT_THAT(answer(R"("tool_calls":{})"), HasSubstr("tool_calls is not a list"));
  EXPECT_THAT(answer(R"("tool_calls":[1])"), HasSubstr("not an object"));
  EXPECT_THAT(answer(R"("tool_calls":[{"arguments":{}}])"), HasSubstr("without a name"));
  EXPECT_THAT(answer(R"("tool_calls":[{"function":"f"}])"), HasSubstr("without a name"));
  EXPECT_THAT(answer(R"("tool_calls":[{"name":"f"}])"), HasSubstr("without arguments"));
  EXPECT_THAT(answer(R"("tool_calls":[{"name":"f","arguments":[1]}])"),
              HasSubstr("call of 'f': arguments are of type array"));
  EXPECT_THAT(answer(R"("tool_calls":[{"name":"f","arguments":"{"}])"),
              HasSubstr("call of 'f': arguments: malformed JSON"));
  EXPECT_THAT(answer(R"("tool_calls":[{"name":"f","arguments":"3"}])"), HasSubstr("of type number"));
  EXPECT_THAT(answer(R"("tool_calls":[{"name":"f","arguments":{},"id":1}])"), HasSubstr("id is of type number"));
  EXPECT_THAT(answer(R"("tool_calls":[{"name":"f","arguments":"18446744073709551616"}])"), HasSubstr("of type number"));
  for (const char* key : {"content", "reasoning", "tool_call_id"}) {
    OrderedJson row = OrderedJson::parse(R"([{"role":"assistant","content":""},{"role":"tool","content":""}])");
    row[std::string_view(key) == "tool_call_id" ? 1 : 0][key] = parse_exact_json("18446744073709551616", "row");
    EXPECT_THAT(error_of([&] { make_v4()->encoder->training_text(row, nullptr); }), HasSubstr("is of type number"));
  }
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  EXPECT_THAT(answer(R"("tool_calls":[{"name":"f","arguments":"{\"a\":)" + deep + R"(}"}])"),
              HasSubstr("nested deeper"));
}

TEST(DeepseekV4Chat, WhatWouldBeLostIsRefused) {
  const std::string tool = R"({"role":"tool","content":"r","tool_call_id":"c9"})";
  EXPECT_EQ(error_in("[" + tool + "]"), "chats.jsonl:7: messages[0]: the result of a tool without a call before it");
  EXPECT_THAT(error_in(R"([{"role":"user","content":"q"},{"role":"assistant","content":"a"},)" + tool + "]"),
              HasSubstr("messages[2]: the result of a tool without a call"));
  EXPECT_THAT(error_in(R"([{"role":"assistant","tool_calls":[{"id":"c1","name":"f","arguments":{}}]},)" + tool + "]"),
              HasSubstr("messages[1]: the result of 'c9', which is no call of the turn before"));
  EXPECT_THAT(error_in(R"([{"role":"user","content":"q"},{"role":"user","content":"q","task":"query"}])"),
              HasSubstr("messages[1]: task on a message that joins"));
  EXPECT_THAT(error_in(R"([{"role":"user","content":"q","task":"query"},{"role":"user","content":"q"}])"),
              HasSubstr("messages[0]: task without an answer"));
}

TEST(DeepseekV4Chat, OptionsAreListed) {
  EXPECT_EQ(error_of([] { make_v4(R"({"enable_thinking":true})"); }),
            "data.template_options: unknown option 'enable_thinking' "
            "(deepseek_v4 takes thinking_mode, drop_thinking, reasoning_effort and reasoning_effort_profile)");
  EXPECT_THAT(error_of([] { make_v4(R"({"thinking_mode":true})"); }), HasSubstr("thinking_mode: is chat or thinking"));
  EXPECT_THAT(error_of([] { make_v4(R"({"drop_thinking":"no"})"); }), HasSubstr("drop_thinking: not true or false"));
  EXPECT_THAT(error_of([] { make_v4("[1]"); }), HasSubstr("not a mapping"));
  EXPECT_EQ(make_v4("null")->format.name, "deepseek_v4");
  const std::string messages = R"([{"role":"user","content":"q"}])";
  EXPECT_EQ(text_of(messages), "<｜User｜>q<｜Assistant｜></think>") << "chat is the default";
}

TEST(DeepseekV4Chat, LevelsOfEffortAreThoseOfTheRelease) {
  const std::string messages = R"([{"role":"user","content":"q"}])", prompt = text_of(messages, kThinking);
  const auto words = [&](const std::string& level, const std::string& profile) {
    const std::string text = text_of(messages, R"({"thinking_mode":"thinking","reasoning_effort":")" + level +
                                                   R"(","reasoning_effort_profile":")" + profile + R"("})");
    EXPECT_TRUE(text.ends_with(prompt));
    return text.substr(0, text.size() - prompt.size());
  };
  EXPECT_EQ(words("high", "preview"), "");
  EXPECT_THAT(words("max", "preview"), testing::StartsWith("Reasoning Effort: Absolute maximum with no shortcuts"));
  EXPECT_EQ(words("low", "official"), "");
  EXPECT_EQ(words("high", "official"), words("max", "preview"));
  EXPECT_EQ(
      words("max", "official"),
      "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\nYou MUST reason with the "
      "utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the problem into its "
      "most fundamental components, trace every causal chain to its root, and resolve the underlying cause rather "
      "than any surface symptom.\nDo not stop reasoning until you have independently verified the solution from "
      "multiple angles and are certain that no assumption remains unchecked and no error remains undiscovered.\n\n");
  EXPECT_EQ(text_of(messages, R"({"thinking_mode":"thinking","reasoning_effort":null})"), prompt);
  const auto refused = [](const std::string& options) { return error_of([&] { make_v4(options); }); };
  EXPECT_THAT(refused(R"({"reasoning_effort":"low","reasoning_effort_profile":"preview"})"),
              HasSubstr("reasoning_effort: is high, max or null (profile preview)"));
  EXPECT_THAT(refused(R"({"reasoning_effort":"xhigh","reasoning_effort_profile":"official"})"),
              HasSubstr("is low, high, max or null (profile official)"));
  EXPECT_THAT(refused(R"({"reasoning_effort_profile":7})"), HasSubstr("is preview or official"));
  EXPECT_THAT(refused(R"({"reasoning_effort":"low"})"), HasSubstr("its levels differ between releases"));
  testing::internal::CaptureStderr();
  EXPECT_EQ(text_of(messages, R"({"thinking_mode":"thinking","reasoning_effort":"max"})"),
            words("max", "preview") + prompt);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("taken as preview's"));
}

TEST(DeepseekV4Chat, TheCheckpointsEncoderSaysWhichLevelsThereAre) {
  const Folder folder;
  fs::create_directory(folder.path / "encoding");
  const auto prompt = [&](const char* options) {
    return make_chat_template("deepseek_v4", Json::parse(options), folder.path)
        ->encoder->generation_prompt(OrderedJson::parse(R"([{"role":"user","content":"q"}])"), nullptr);
  };
  const char* max = R"({"thinking_mode":"thinking","reasoning_effort":"max"})";
  EXPECT_THAT(prompt(max), HasSubstr("Absolute maximum"));
  folder.write("encoding/encoding_dsv4.py", "REASONING_EFFORT_MAX = (\n    \"…\"\n)\n");
  EXPECT_THAT(prompt(max), HasSubstr("Absolute maximum"));
  EXPECT_THAT(error_of([&] { prompt(R"({"reasoning_effort":"low"})"); }), HasSubstr("(profile preview)"));
  folder.write("encoding/encoding_dsv4.py", "x = REASONING_EFFORT_MAX\nREASONING_EFFORT_PROMPTS: Dict[str, str] = {\n");
  EXPECT_THAT(prompt(max), HasSubstr("Beyond maximum"));
  EXPECT_THAT(prompt(R"({"thinking_mode":"thinking","reasoning_effort":"max","reasoning_effort_profile":"preview"})"),
              HasSubstr("Absolute maximum"))
      << "what is given goes first";
}

TEST(DeepseekV4Chat, IsDetectedByTheConfig) {
  std::string name = fs::temp_directory_path() / "moraine_v4_XXXXXX";
  const fs::path folder = mkdtemp(name.data());
  const auto write = [&](const char* file, const std::string& text) { std::ofstream(folder / file) << text; };
  const auto detected = [&] { return make_chat_template("auto", Json::object(), folder)->format.name; };
  write("config.json", R"({"model_type": "deepseek_v3"})");
  EXPECT_THAT(error_of(detected), HasSubstr("no chat template"));
  write("config.json", R"({"model_type": "deepseek_v4"})");
  write("tokenizer_config.json", R"({"model_max_length": 5})");
  EXPECT_EQ(detected(), "deepseek_v4");
  // A template of its own goes first.
  fs::copy_file(kGolden / "templates/qwen3.jinja", folder / "chat_template.jinja");
  EXPECT_EQ(detected(), "qwen3");
  fs::remove_all(folder);
}

}  // namespace
}  // namespace moraine
