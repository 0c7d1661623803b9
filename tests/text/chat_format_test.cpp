// What holds for every chat format, whatever its name: for each row of the table.
#include "text/chat/chat_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "text/chats.h"

namespace moraine {
namespace {

// Every format as itself, and every format that wraps another around each that it can wrap.
std::vector<std::unique_ptr<ChatTemplate>> all_chat_templates() {
  std::vector<std::unique_ptr<ChatTemplate>> all;
  for (const ChatFormat& format : chat_formats()) {
    if (has_encoder(format)) all.push_back(make(format.name));
    if (format.wrap == nullptr) continue;
    for (const std::string& base : chat_format_names(has_encoder))
      all.push_back(make(format.name, Json{{"base", base}}.dump().c_str()));
  }
  return all;
}

bool is_one_token(const std::string& text, const Tokenizer& tokenizer) {
  return tokenizer.encode(text).ids.size() == 1;
}

const OrderedJson kQuestion = OrderedJson::parse(R"([{"role": "user", "content": "How much is 1 + 2?"}])");
const OrderedJson kAnswer = OrderedJson::parse(R"({"role": "assistant", "content": "I add.", "tool_calls": [
    {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "2"}}}]})");

TEST(ChatFormats, HaveNamesAndTemplatesOfTheirOwn) {
  std::set<std::string_view> names{"auto"}, hashes;
  for (const ChatFormat& format : chat_formats()) {
    EXPECT_TRUE(names.insert(format.name).second) << format.name;
    EXPECT_EQ(find_chat_format(format.name), &format);
    EXPECT_NE(has_encoder(format), format.wrap != nullptr) << format.name;
    for (const ReleasedTemplate& released : format.released) {
      EXPECT_TRUE(hashes.insert(released.hash).second) << released.hash;
      EXPECT_EQ(released.hash.size(), 32u);
    }
    for (const auto& [key, value] : format.when_wrapped.items()) EXPECT_THAT(format.options, testing::Contains(key));
  }
  EXPECT_EQ(find_chat_format("auto"), nullptr);
}

TEST(ChatFormats, RenderAConversationWhoseAnswerEndsItsTurn) {
  OrderedJson messages = kQuestion;
  messages.push_back(kAnswer);
  for (const auto& chat : all_chat_templates()) {
    SCOPED_TRACE(chat->format.name + " on " + chat->turns.name);
    EXPECT_THAT(chat->turns.turn_tokens, testing::Contains(chat->turns.end_of_turn));
    const ChatText text = chat->encoder->training_text(messages, nullptr);
    ASSERT_EQ(text.trained.size(), 1u);
    const auto [begin, end] = text.trained[0];
    EXPECT_THAT(text.text.substr(begin, end - begin),
                testing::AllOf(testing::HasSubstr("I add."), testing::HasSubstr("add"),
                               testing::HasSubstr(chat->turns.end_of_turn)));
    EXPECT_THAT(chat->encoder->generation_prompt(kQuestion, nullptr), testing::HasSubstr("How much is 1 + 2?"));
    EXPECT_THAT(chat->encoder->inference_text(messages, nullptr), testing::HasSubstr("I add."));
  }
}

TEST(ChatFormats, TurnsBeginAndEndWithOneTokenOfTheirTokenizer) {
  for (const auto& chat : all_chat_templates()) {
    const bool is_for_qwen = is_one_token(chat->turns.end_of_turn, qwen3_tokenizer());
    const Tokenizer& tokenizer = is_for_qwen ? qwen3_tokenizer() : deepseek_tokenizer();
    EXPECT_TRUE(is_one_token(chat->turns.end_of_turn, tokenizer)) << chat->format.name;
    EXPECT_NO_THROW(check_turn_tokens(*chat, tokenizer));
  }
}

TEST(ChatFormats, OptionsThatAFormatDoesNotTakeAreRefusedWithThoseThatItTakes) {
  for (const ChatFormat& format : chat_formats()) {
    const std::string base =
        has_encoder(format) ? "" : "\"base\": \"" + chat_format_names(has_encoder).front() + "\", ";
    const std::string error = error_of([&] { make(format.name, ("{" + base + "\"no_option\": 1}").c_str()); });
    EXPECT_THAT(error,
                testing::HasSubstr("data.template_options: unknown option 'no_option' (" + format.name + " takes "));
    for (const std::string& option : format.options) EXPECT_THAT(error, testing::HasSubstr(option));
  }
}

TEST(ChatFormats, WhatIsTakenApartIsWhatWasAnswered) {
  int parsers = 0;
  for (const ChatFormat& format : chat_formats()) {
    if (!has_parser(format)) continue;
    ++parsers;
    OrderedJson messages = kQuestion;
    messages.push_back(kAnswer);
    const auto chat = make(format.name);
    const ChatText text = chat->encoder->training_text(messages, nullptr);
    const CompletionParser parse = format.parser(Json::object(), OrderedJson::object(), false);
    messages.back() = parse(text.text.substr(text.trained[0].first));
    EXPECT_EQ(messages.back()["content"], kAnswer["content"]);
    EXPECT_EQ(messages.back()["tool_calls"].size(), 1u);
    EXPECT_EQ(chat->encoder->training_text(messages, nullptr).text, text.text);
    for (const std::string& key : format.completion_keys)
      EXPECT_THAT(error_of([&] {
                    format.parser(Json::object(), OrderedJson{{key, "no value of it"}}, false);
                  }),
                  testing::HasSubstr(key));
  }
  EXPECT_GT(parsers, 0);
}

}  // namespace
}  // namespace moraine
