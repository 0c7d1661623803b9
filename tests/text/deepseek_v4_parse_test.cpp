// DeepSeek-V4's completions taken apart, and that they are what the encoder writes.
#include "text/chat/deepseek_v4_parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "base/error.h"
#include "text/chat/deepseek_v4_chat.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

using deepseek_v4::parse_completion;
using deepseek_v4::ThinkingMode;
using testing::HasSubstr;

ThinkingMode mode_of(const OrderedJson& name) { return name == "chat" ? ThinkingMode::kChat : ThinkingMode::kThinking; }

std::string parse_error(const std::string& completion, ThinkingMode mode = ThinkingMode::kChat) {
  try {
    at_place("row", [&] { parse_completion(completion, mode); });
  } catch (const Error& error) {
    EXPECT_EQ(error.kind, ErrorKind::kInput);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    EXPECT_THAT(error.what(), testing::StartsWith("row: "));
    return error.what();
  }
  ADD_FAILURE() << "no error: " << completion;
  return "";
}

const std::string kEnd = "<｜end▁of▁sentence｜>";

// A completion with `invokes` in a block of tool calls.
std::string calls(const std::string& invokes) {
  return "\n\n<｜DSML｜tool_calls>\n" + invokes + "</｜DSML｜tool_calls>" + kEnd;
}
std::string invoke(const std::string& parameters) {
  return "<｜DSML｜invoke name=\"f\">\n" + parameters + "</｜DSML｜invoke>\n";
}
std::string parameter(const std::string& attributes, const std::string& value) {
  return "<｜DSML｜parameter " + attributes + ">" + value + "</｜DSML｜parameter>\n";
}

// A message of the released parser, with the name that thinking has in messages.
OrderedJson renamed(const OrderedJson& message) {
  OrderedJson same = OrderedJson::object();
  for (const auto& [key, value] : message.items()) same[key == "reasoning" ? "reasoning_content" : key] = value;
  return same;
}

TEST(DeepseekV4Parse, EqualsTheGoldens) {
  std::ifstream file(std::filesystem::path(MORAINE_TESTS_DIR) / "golden/templates/deepseek_v4_parse.jsonl");
  int rows = 0;
  for (std::string line; std::getline(file, line); ++rows) {
    const OrderedJson row = parse_ordered_json(line, "golden");
    const std::string completion = row["completion"];
    if (row["message"].is_null()) {
      EXPECT_NE(parse_error(completion, mode_of(row["thinking_mode"])), "");
    } else {
      EXPECT_EQ(parse_completion(completion, mode_of(row["thinking_mode"])), renamed(row["message"]));
    }
  }
  EXPECT_EQ(rows, 10);
}

TEST(DeepseekV4Parse, JsonOfTheModelStaysAsItIs) {
  const OrderedJson message =
      parse_completion("x" + calls(invoke(parameter(R"(name="n" string="false")", "[1,  12345678901234567890123]") +
                                          parameter(R"(name="t" string="true")", "[1,2]")) +
                                   invoke("\n") + invoke("")),
                       ThinkingMode::kChat);
  EXPECT_EQ(message["content"], "x");
  EXPECT_EQ(message["tool_calls"][0]["function"]["arguments"], R"({"n": [1,  12345678901234567890123], "t": "[1,2]"})");
  for (int i : {1, 2}) EXPECT_EQ(message["tool_calls"][i]["function"]["arguments"], "{}");
}

TEST(DeepseekV4Parse, AWholeBlockOfCallsNeedsNoEndOfTheSentence) {
  const auto without_end = [](const std::string& completion) {
    return completion.substr(0, completion.size() - kEnd.size());
  };
  const std::string chat = "x" + calls(invoke(parameter(R"(name="a" string="true")", "1")) + invoke("\n"));
  EXPECT_EQ(parse_completion(without_end(chat), ThinkingMode::kChat), parse_completion(chat, ThinkingMode::kChat));
  const std::string thinking = "hm</think>" + calls(invoke(""));
  EXPECT_EQ(parse_completion(without_end(thinking), ThinkingMode::kThinking),
            parse_completion(thinking, ThinkingMode::kThinking));
  // What is cut short or goes on is refused as before.
  for (size_t n = 1; n < std::string("</｜DSML｜tool_calls>").size(); ++n)
    EXPECT_NE(parse_error(without_end(chat).substr(0, without_end(chat).size() - n)), "") << n;
  for (const char* more : {"\n", " ", "a", "</｜DSML｜tool_calls>"})
    EXPECT_NE(parse_error(without_end(chat) + more), "") << more;
  EXPECT_THAT(parse_error("a</｜DSML｜tool_calls>"), HasSubstr("｜DSML｜ in the content"));
  EXPECT_THAT(parse_error(without_end(calls(""))), HasSubstr("without a call"));
  EXPECT_THAT(parse_error("hm" + without_end(calls(invoke(""))), ThinkingMode::kThinking), HasSubstr("no </think>"));
}

TEST(DeepseekV4Parse, MalformedCompletionsAreRefusedWithTheReason) {
  EXPECT_THAT(parse_error(""), HasSubstr("no <｜end▁of▁sentence｜>"));
  EXPECT_THAT(parse_error("a"), HasSubstr("no <｜end▁of▁sentence｜>"));
  EXPECT_THAT(parse_error("a" + kEnd + "\n"), HasSubstr("text after <｜end▁of▁sentence｜>"));
  EXPECT_THAT(parse_error("a" + kEnd + kEnd), HasSubstr("text after"));
  EXPECT_THAT(parse_error("<｜begin▁of▁sentence｜>a" + kEnd), HasSubstr("<｜begin▁of▁sentence｜> in the content"));
  EXPECT_THAT(parse_error("a</think>b" + kEnd), HasSubstr("</think> in the content"));
  EXPECT_THAT(parse_error("a</think>b</think>c" + kEnd, ThinkingMode::kThinking), HasSubstr("</think> in the content"));
  EXPECT_THAT(parse_error("<think>a</think>b" + kEnd, ThinkingMode::kThinking), HasSubstr("<think> in the thinking"));
  EXPECT_THAT(parse_error("a" + calls(invoke("")), ThinkingMode::kThinking), HasSubstr("no </think>"));
  EXPECT_THAT(parse_error("a" + calls(invoke("") + "</think>"), ThinkingMode::kThinking),
              HasSubstr("｜DSML｜ in the thinking"));
  EXPECT_THAT(parse_error("a\n<｜DSML｜tool_calls>\n</｜DSML｜tool_calls>" + kEnd),
              HasSubstr("｜DSML｜ in the content"));
  EXPECT_THAT(parse_error(calls("")), HasSubstr("without a call"));
  EXPECT_THAT(parse_error("\n\n<｜DSML｜tool_calls>\n" + kEnd), HasSubstr("end of the tool calls, at the end"));
  EXPECT_THAT(parse_error("\n\n<｜DSML｜tool_calls>\n" + invoke("") + kEnd),
              HasSubstr("end of the tool calls, at the end"));
  EXPECT_THAT(parse_error(calls("hello")), HasSubstr("expected an invoke"));
  EXPECT_THAT(parse_error(calls("<｜DSML｜invoke name=\"f\" >\n</｜DSML｜invoke>\n")), HasSubstr("malformed invoke"));
  EXPECT_THAT(parse_error(calls("<｜DSML｜invoke name=\"\">\n</｜DSML｜invoke>\n")), HasSubstr("without a name"));
  EXPECT_THAT(parse_error(calls("<｜DSML｜invoke name=\"f\">\n")), HasSubstr("end of the invoke"));
  EXPECT_THAT(parse_error(calls(invoke("text\n"))), HasSubstr("expected a parameter"));
  EXPECT_THAT(parse_error(calls(invoke(parameter(R"(name="a" string="maybe")", "1")))), HasSubstr("without string="));
  EXPECT_THAT(parse_error(calls(invoke(parameter(R"(string="true" name="a")", "1")))),
              HasSubstr("expected a parameter"));
  EXPECT_THAT(parse_error(calls(invoke("<｜DSML｜parameter name=\"a\" string=\"true\">1\n"))), HasSubstr("not closed"));
  EXPECT_THAT(parse_error(calls(invoke(parameter(R"(name="a" string="false")", "")))),
              HasSubstr("parameter 'a': malformed JSON"));
  EXPECT_THAT(parse_error(calls(invoke(parameter(R"(name="a" string="false")", "yes")))), HasSubstr("malformed JSON"));
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  EXPECT_THAT(parse_error(calls(invoke(parameter(R"(name="a" string="false")", deep)))), HasSubstr("nested deeper"));
  const std::string once = parameter(R"(name="a" string="true")", "1");
  EXPECT_THAT(parse_error(calls(invoke(once + once))), HasSubstr("'a' is given twice"));
}

// Messages made of pieces that look like the format's own.
class Random {
 public:
  explicit Random(uint64_t seed) : random_(seed) {}

  uint64_t below(uint64_t end) { return random_() % end; }

  std::string text() {
    static const std::vector<std::string> kPieces{"a",
                                                  "中",
                                                  "👍",
                                                  " ",
                                                  "\n",
                                                  "\n\n",
                                                  "\t",
                                                  "\"",
                                                  "'",
                                                  "\\",
                                                  "<",
                                                  ">",
                                                  "</",
                                                  "｜",
                                                  "<｜",
                                                  "DSML",
                                                  "invoke ",
                                                  "name=\"x",
                                                  "\">\n",
                                                  "{}",
                                                  "</b>",
                                                  "é",
                                                  "&lt;",
                                                  "null",
                                                  "tool_calls>",
                                                  "\x01",
                                                  "｜>",
                                                  "think>",
                                                  "<|im_end|>",
                                                  "parameter>",
                                                  "\r\n",
                                                  "123",
                                                  "｜DSML",
                                                  "DSML｜",
                                                  "<think",
                                                  "<tool_call>",
                                                  "</tool_result>",
                                                  "<｜User｜>",
                                                  "\" string=\"true\">",
                                                  "<｜end▁of▁sentence"};
    std::string text;
    for (uint64_t n = below(7); n > 0; --n) text += kPieces[below(kPieces.size())];
    return text;
  }

  OrderedJson value(int depth) {
    switch (below(depth > 3 ? 6 : 8)) {
      case 0:
        return nullptr;
      case 1:
        return below(2) == 0;
      case 2:
        return static_cast<int64_t>(random_());
      case 3:
        return static_cast<double>(static_cast<int64_t>(random_())) * 1e-7;
      case 6: {
        OrderedJson list = OrderedJson::array();
        for (uint64_t n = below(4); n > 0; --n) list.push_back(value(depth + 1));
        return list;
      }
      case 7:
        return object(depth + 1);
      default:
        return text();
    }
  }

  OrderedJson object(int depth) {
    OrderedJson object = OrderedJson::object();
    for (uint64_t n = below(4); n > 0; --n) object[text()] = value(depth);
    return object;
  }

  OrderedJson answer() {
    OrderedJson message{{"role", "assistant"}, {"content", text()}, {"reasoning_content", text()}};
    OrderedJson& list = message["tool_calls"] = OrderedJson::array();
    for (uint64_t n = below(3); n > 0; --n) {
      list.push_back({{"type", "function"}, {"function", {{"name", "f" + text()}, {"arguments", object(0)}}}});
    }
    return message;
  }

 private:
  std::mt19937_64 random_;
};

// Whether any text in `json` holds `token`.
bool holds(const OrderedJson& json, std::string_view token) {
  if (json.is_string()) return json.get_ref<const std::string&>().find(token) != std::string::npos;
  for (const auto& [key, value] : json.items()) {
    if ((json.is_object() && key.find(token) != key.npos) || (json.is_structured() && holds(value, token))) return true;
  }
  return false;
}

// Whether the parser has to refuse `message`.
bool has_think_tag(const OrderedJson& message) {
  return holds(message["content"], "<think>") || holds(message["content"], "</think>");
}

TEST(DeepseekV4Parse, WhatTheEncoderWritesComesBack) {
  Random random(7);
  int came_back = 0, with_calls = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const ThinkingMode mode = random.below(2) == 0 ? ThinkingMode::kChat : ThinkingMode::kThinking;
    const auto chat = make_deepseek_v4_chat({.thinking_mode = mode});
    OrderedJson message = random.answer();
    const auto messages = OrderedJson::array({OrderedJson{{"role", "user"}, {"content", random.text()}}, message});
    ChatText text;
    try {
      text = chat->training_text(messages, nullptr);
    } catch (const Error& error) {
      // Only for what the parser would take for the format's own.
      ASSERT_TRUE(holds(message, "｜DSML｜") || holds(message, kEnd) || holds(message, "<think>") ||
                  holds(message, "</think>") || holds(message["tool_calls"], "\">\n") ||
                  holds(message["tool_calls"], "\" string=\"true\">"))
          << error.what() << "\n"
          << message.dump(2);
      ++refused;
      continue;
    }
    const std::string completion = text.text.substr(text.trained.back().first);
    if (has_think_tag(message)) {
      parse_error(completion, mode);
      continue;
    }
    OrderedJson parsed = parse_completion(completion, mode);
    for (OrderedJson& call : parsed["tool_calls"]) {
      OrderedJson& arguments = call["function"]["arguments"];
      arguments = parse_ordered_json(arguments.get<std::string>(), "arguments");
    }
    if (mode == ThinkingMode::kChat) message["reasoning_content"] = "";  // not written
    ASSERT_EQ(parsed, message) << completion;
    // And the message encodes to the same text again.
    const auto again = OrderedJson::array({messages[0], parsed});
    ASSERT_EQ(chat->training_text(again, nullptr).text, text.text);
    ++came_back;
    with_calls += !parsed["tool_calls"].empty();
  }
  EXPECT_GT(came_back, 10000);
  EXPECT_GT(with_calls, 5000);
  EXPECT_GT(refused, 100);
}

// The parser reads what a model wrote: any cut or damage of a good completion ends in a message or in one line.
TEST(DeepseekV4Parse, DamagedCompletionsEndInOrder) {
  Random random(8);
  const std::string good =
      "plan</think>Go." + calls(invoke(parameter(R"(name="a" string="false")", R"([1, {"k": "v"}])") +
                                       parameter(R"(name="s" string="true")", "x")));
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = good;
    for (uint64_t n = 1 + random.below(3); n > 0; --n) {
      const size_t at = random.below(damaged.size()), length = random.below(30);
      const std::string piece = damaged.substr(random.below(damaged.size()), random.below(30));
      damaged.replace(at, length, random.below(2) == 0 ? "" : piece);
    }
    try {
      EXPECT_TRUE(parse_completion(damaged, ThinkingMode::kThinking)["tool_calls"].is_array());
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace moraine
