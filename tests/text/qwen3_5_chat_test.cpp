#include "text/chat/qwen3_5_chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/chats.h"

namespace moraine {
namespace {

using testing::HasSubstr;

TEST(Qwen35, ArgumentsMayBeJsonTextAndNumbersOfAnyLength) {
  const auto messages = parse_exact_json(R"([{"role":"user","content":" q\u3000"},{"role":"assistant","content":null,
      "tool_calls":[{"name":"f","arguments":"{\"n\": -123456789012345678901234567890, \"x\": 1.50}"},
                    {"name":"g","arguments":{"n":18446744073709551616,"l":[18446744073709551616,true,"é"]}}]}])",
                                         "row");
  const std::string text = make("qwen3_5")->encoder->training_text(messages, nullptr).text;
  EXPECT_EQ(text,
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
            "<tool_call>\n<function=f>\n<parameter=n>\n-123456789012345678901234567890\n</parameter>\n"
            "<parameter=x>\n1.5\n</parameter>\n</function>\n</tool_call>\n"
            "<tool_call>\n<function=g>\n<parameter=n>\n18446744073709551616\n</parameter>\n"
            "<parameter=l>\n[18446744073709551616, true, \"é\"]\n</parameter>\n</function>\n</tool_call><|im_end|>\n");
}

TEST(Qwen35, CallsMayHaveNoParameters) {
  const auto calls = [](const std::string& call) {
    return training_text("qwen3_5", (R"([{"role":"user","content":"q"},{"role":"assistant","tool_calls":[)" + call +
                                     R"(,{"function":{"name":"g","arguments":{}}}]}])")
                                        .c_str());
  };
  for (const char* call : {R"({"name":"f"})", R"({"function":{"name":"f"}})", R"({"name":"f","arguments":""})",
                           R"({"name":"f","arguments":" \n"})", R"({"name":"f","arguments":"{}"})"}) {
    EXPECT_THAT(calls(call), testing::EndsWith("<tool_call>\n<function=f>\n</function>\n</tool_call>\n"
                                               "<tool_call>\n<function=g>\n</function>\n</tool_call><|im_end|>\n"))
        << call;
  }
}

TEST(Qwen35, WhatItCannotExpressIsRefused) {
  const auto error = [](const std::string& messages) {
    return error_of([&] { training_text("qwen3_5", ("[" + messages + "]").c_str()); });
  };
  const std::string user = R"({"role":"user","content":"q"})";
  EXPECT_THAT(error(R"({"role":"system","content":"s"})"), HasSubstr("chats.jsonl:1: no message of a user"));
  EXPECT_THAT(error(R"({"role":"user","content":"<tool_response>\nr\n</tool_response>"})"),
              HasSubstr("no message of a user"));
  EXPECT_THAT(error(user + R"(,{"role":"system","content":"s"})"),
              HasSubstr("messages[1]: a system message that is not the first"));
  EXPECT_THAT(error(user + R"(,{"role":"tool","content":"r"})"),
              HasSubstr("messages[1]: a tool's result without a call"));
  EXPECT_THAT(error(user + R"(,{"role":"assistant","content":"a"},{"role":"tool","content":"r"})"),
              HasSubstr("messages[2]: a tool's result without a call"));
  EXPECT_THAT(error(user + R"(,{"role":"developer","content":"s"})"),
              HasSubstr("messages[1]: unknown role 'developer'"));
  const auto call_error = [&](const char* arguments) {
    return error(user + R"(,{"role":"assistant","tool_calls":[{"name":"f","arguments":)" + arguments + "}]}");
  };
  for (const char* arguments : {"null", "[1]", "7", "true", R"("[1]")", R"("7")"}) {
    EXPECT_EQ(call_error(arguments),
              "chats.jsonl:1: messages[1]: arguments of 'f' are not an object "
              "(qwen3_5 writes them as named parameters)");
  }
  EXPECT_THAT(call_error(R"("city=Paris")"), HasSubstr("chats.jsonl:1: messages[1]: arguments of 'f': malformed JSON"));
  // A call that the content holds as text is a call.
  EXPECT_THAT(training_text("qwen3_5", R"([{"role":"user","content":"q"},
      {"role":"assistant","content":"<tool_call>…</tool_call>"},{"role":"tool","content":"r"}])"),
              testing::EndsWith("<|im_start|>user\n<tool_response>\nr\n</tool_response><|im_end|>\n"));
}

}  // namespace
}  // namespace moraine
