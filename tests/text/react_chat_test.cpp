#include "text/chat/react_chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/chats.h"

namespace moraine {
namespace {

using testing::HasSubstr;

TEST(React, EveryRowBecomesPlainMessagesAndTheirText) {
  const auto rows = golden_rows("react");
  ASSERT_EQ(rows.size(), 24u);
  for (size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(i);
    const OrderedJson& row = rows[i];
    EXPECT_EQ(to_react_messages(row["messages"], row["tools"]), row["plain_messages"]);
    auto chat = make("react", row["options"].dump().c_str());
    EXPECT_EQ(chat->format.name, "react");
    const ChatText text = chat->encoder->training_text(row["messages"], row["tools"]);
    EXPECT_EQ(text.text, row["text"]);
    EXPECT_EQ(chat->encoder->inference_text(row["messages"], row["tools"]), row["text"]);
    size_t answers = 0;
    for (const OrderedJson& message : row["plain_messages"]) {
      if (message["role"] != "assistant") continue;
      ASSERT_LT(answers, text.trained.size());
      const auto [begin, end] = text.trained[answers++];
      EXPECT_EQ(text.text.substr(begin, end - begin), message["content"].get<std::string>() + "<|im_end|>\n");
    }
    EXPECT_EQ(text.trained.size(), answers);
  }
}

TEST(React, DeepseekV4RendersIt) {
  const OrderedJson row = golden_rows("react")[0];
  const auto react = make("react", R"({"base":"deepseek_v4","thinking_mode":"chat"})");
  const ChatText text = react->encoder->training_text(row["messages"], row["tools"]);
  EXPECT_EQ(text.text, make("deepseek_v4")->encoder->training_text(row["plain_messages"], nullptr).text);
  EXPECT_FALSE(text.trained.empty());
  EXPECT_EQ(text.text.find("DSML"), text.text.npos);
}

// As they see results as users' turns, only the answer after the last one would be trained if thinking were dropped.
TEST(React, EveryTurnIsTrainedOnDeepseekV4WithThinking) {
  const auto messages = OrderedJson::parse(
      R"([{"role":"user","content":"q"},
          {"role":"assistant","reasoning_content":"Sum.","tool_calls":[{"name":"add","arguments":{"a":1}}]},
          {"role":"tool","content":"7"},
          {"role":"assistant","tool_calls":[{"name":"add","arguments":{"a":2}}]},
          {"role":"tool","content":"8"},{"role":"assistant","content":"8."}])");
  const auto tools = OrderedJson::parse(R"([{"name":"add"}])");
  const auto answers = [&](const std::string& options, const fs::path& folder) {
    return make_chat_template("react", Json::parse(R"({"thinking_mode":"thinking")" + options + "}"), folder)
        ->encoder->training_text(messages, tools)
        .trained.size();
  };
  EXPECT_EQ(answers(R"(,"base":"deepseek_v4")", "/no/such/folder"), 3u);
  EXPECT_EQ(answers(R"(,"base":"deepseek_v4","drop_thinking":true)", "/no/such/folder"), 1u);
  Folder folder;
  folder.write("config.json", R"({"model_type": "deepseek_v4"})");
  folder.write("tokenizer_config.json", "{}");
  EXPECT_EQ(answers("", folder.path), 3u);
}

const char* const kCallToAdd = R"({"name":"add","arguments":{"a":1}})";

// The last message of a conversation with a tool, as react writes it.
std::string react_says(const std::string& message, const char* tools = R"([{"name":"add"}])") {
  const OrderedJson messages = OrderedJson::parse(R"([{"role":"user","content":"q"},)" + message + "]");
  return to_react_messages(messages, OrderedJson::parse(tools)).back()["content"];
}

TEST(React, WhatTheAssistantThinks) {
  const std::string call = std::string(R"(,"tool_calls":[)") + kCallToAdd + "]}";
  EXPECT_EQ(react_says(R"({"role":"assistant","content":"So.")" + call),
            "Thought: So.\nAction: add\nAction Input: {\"a\": 1}");
  EXPECT_EQ(react_says(R"({"role":"assistant","content":"<think>\nHm.\n</think>\n\n")" + call),
            "Thought: Hm.\nAction: add\nAction Input: {\"a\": 1}");
  EXPECT_EQ(react_says(R"({"role":"assistant","content":"<think>\nHm.\n</think>\n\n4"})"),
            "Thought: Hm.\nFinal Answer: 4");
  EXPECT_EQ(react_says(R"({"role":"assistant","content":"<think>\nHm.\n</think>\n\n4"})", "null"),
            "<think>\nHm.\n</think>\n\n4");
  const std::string call_text = "\nAction: add\nAction Input: {\"a\": 1}";
  EXPECT_EQ(react_says(R"({"role":"assistant","content":"Thought: So.")" + call), "Thought: So." + call_text);
  EXPECT_EQ(react_says(R"({"role":"assistant","content":"<think>\nThought: Hm.\n</think>")" + call),
            "Thought: Hm." + call_text);
  // Thinking that is empty is none.
  const std::string empty = R"({"role":"assistant","reasoning_content":"","content":)";
  EXPECT_EQ(react_says(empty + R"("Thought: x\nFinal Answer: 4"})"), "Thought: x\nFinal Answer: 4");
  EXPECT_EQ(react_says(empty + R"("<think>\nHm.\n</think>\n\n4"})"), "Thought: Hm.\nFinal Answer: 4");
  EXPECT_EQ(react_says(empty + R"("So.")" + call), "Thought: So." + call_text);
  // The other key of thinking.
  EXPECT_EQ(react_says(R"({"role":"assistant","reasoning":"Hm.","content":"4"})"), "Thought: Hm.\nFinal Answer: 4");
  // Written in the format already.
  for (const char* text : {"Thought: x\\nFinal Answer: 4", "Final Answer: 4", "Action: add\\nAction Input: {}"}) {
    const std::string content = OrderedJson::parse('"' + std::string(text) + '"');
    EXPECT_EQ(react_says(R"({"role":"assistant","content":")" + std::string(text) + "\"}"), content);
  }
}

TEST(React, ToolsMayLackTheFunctionWrapperDescriptionAndParameters) {
  const auto messages = OrderedJson::parse(R"([{"role":"user","content":"q"}])");
  const std::string prompt = to_react_messages(messages, OrderedJson::parse(R"([{"name":"now"}])"))[0]["content"];
  EXPECT_THAT(prompt, HasSubstr("\n\nnow: Parameters: {} Format the arguments as a JSON object.\n\n"));
  EXPECT_THAT(prompt, HasSubstr("should be one of [now]\n"));
}

TEST(React, IsRenderedByItsBaseWithItsOptions) {
  const auto messages = OrderedJson::parse(R"([{"role":"user","content":"q"}])");
  const auto prompt = [&](const char* options) {
    return make("react", options)->encoder->generation_prompt(messages, nullptr);
  };
  EXPECT_THAT(prompt(R"({"base":"qwen3_5"})"), testing::EndsWith("<think>\n"));
  EXPECT_THAT(prompt(R"({"base":"qwen3_5","enable_thinking":false})"), testing::EndsWith("<think>\n\n</think>\n\n"));
  Folder folder;
  fs::copy_file(kGolden / "templates/qwen3_5_nothink.jinja", folder.path / "chat_template.jinja");
  EXPECT_THAT(make_chat_template("react", Json::object(), folder.path)->encoder->generation_prompt(messages, nullptr),
              testing::EndsWith("<think>\n\n</think>\n\n"));

  EXPECT_EQ(error_of([] { make("react", R"({"base":"react"})"); }),
            "data.template_options.base: unknown template 'react' "
            "(available: auto, qwen3, qwen3_instruct_2507, qwen3_5 and deepseek_v4)");
  EXPECT_THAT(error_of([] { make("react", R"({"base":7})"); }), HasSubstr("base: not the name of a template"));
  EXPECT_THAT(error_of([] { make("react", R"({"base":"qwen3","bse":1})"); }),
              HasSubstr("unknown option 'bse' (react takes base; its base qwen3 takes enable_thinking)"));
  EXPECT_THAT(error_of([] { make("react", "[]"); }), HasSubstr("not a mapping"));
  EXPECT_THAT(error_of([] { make("react"); }),
              HasSubstr("say which format renders react's messages: data.template_options.base"));
}

TEST(React, WhatItCannotExpressIsRefused) {
  const auto error = [](const char* messages, const char* tools = R"([{"name":"add"}])") {
    return error_of([&] {
      at_place("chats.jsonl:1", [&] { to_react_messages(OrderedJson::parse(messages), OrderedJson::parse(tools)); });
    });
  };
  EXPECT_EQ(error(R"([{"role":"user","content":"q"},{"role":"tool","content":"r"}])"),
            "chats.jsonl:1: messages[1]: a tool's result without a call before it "
            "(the assistant's message before it has tool_calls)");
  EXPECT_THAT(error(R"([{"role":"user","content":"q"},{"role":"system","content":"s"}])"),
              HasSubstr("messages[1]: a system message that is not the first"));
  EXPECT_THAT(error(R"([{"role":"function","content":"q"}])"), HasSubstr("messages[0]: unknown role 'function'"));
  EXPECT_THAT(error(R"([{"role":"user","content":"q"}])", R"([{"function":{}}])"), HasSubstr("a tool without a name"));
  EXPECT_THAT(error(R"([{"role":"user","content":"q"}])", R"([{"function":7}])"), HasSubstr("a tool without a name"));
  EXPECT_THAT(error(R"([{"role":"user","content":"q"}])", R"([{"name":"f","description":[]}])"),
              HasSubstr("the description of 'f' is not text"));
  EXPECT_THAT(error(R"([{"role":"user","content":"q"}])", R"({"f":1})"), HasSubstr("tools is not a list"));
  EXPECT_THAT(error("[]"), HasSubstr("no messages"));
  const auto answer = [&](const std::string& keys, const char* tools = R"([{"name":"add"}])") {
    return error((R"([{"role":"user","content":"q"},{"role":"assistant",)" + keys + "}]").c_str(), tools);
  };
  const std::string call = R"(,"tool_calls":[{"name":"add","arguments":{"a":"1"}}])";
  EXPECT_EQ(answer(R"("content":"Thought: x\nAction: add\nAction Input: {}")" + call),
            "chats.jsonl:1: messages[1]: content says 'Action:' beside tool_calls "
            "(which of the two is meant? give one of them)");
  EXPECT_THAT(answer(R"("content":"Final Answer: 4")" + call), HasSubstr("content says 'Final Answer:'"));
  // What a base that thinks would take apart.
  EXPECT_EQ(answer(R"("content":"4","reasoning_content":"a</think>b")"),
            "chats.jsonl:1: messages[1]: a thought, call or answer of react holds </think> "
            "(thinking is given as reasoning_content, without its tags)");
  EXPECT_THAT(answer(R"("content":"4","reasoning_content":"<think>b")", "null"), HasSubstr("react holds <think>"));
  EXPECT_THAT(answer(R"("tool_calls":[{"name":"add","arguments":{"a":"</think>"}}])"),
              HasSubstr("react holds </think>"));
  // A call that the content holds as text is a call.
  const auto written = OrderedJson::parse(
      R"([{"role":"assistant","content":"Action: f\nAction Input: 1"},{"role":"tool","content":"r"}])");
  EXPECT_EQ(to_react_messages(written, nullptr).back()["content"], "Observation: r");
}

}  // namespace
}  // namespace moraine
