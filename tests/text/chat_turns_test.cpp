// Each assistant turn as a row of its own, and users' and tools' text, which is neither trained nor read as special
// tokens.
#include "text/chat/chat_turns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "base/file.h"
#include "text/chat/jinja_chat.h"
#include "text/chats.h"

namespace moraine {
namespace {

using testing::HasSubstr;

std::unique_ptr<ChatEncoder> jinja_encoder(const std::string& name) {
  return make_jinja_chat(read_text_file(kGolden / "templates" / (name + ".jinja")), name, OrderedJson::object(), "")
      .encoder;
}

// Every encoder that is built in, around every other that it can wrap, and templates rendered by themselves.
std::vector<std::pair<std::string, std::unique_ptr<ChatEncoder>>> all_encoders() {
  std::vector<std::pair<std::string, std::unique_ptr<ChatEncoder>>> all;
  for (const std::string& name : chat_format_names(has_encoder)) {
    all.emplace_back(name, std::move(make(name)->encoder));
    all.emplace_back("react on " + name, std::move(make("react", Json{{"base", name}}.dump().c_str())->encoder));
  }
  all.emplace_back("deepseek_v4 thinking", std::move(make("deepseek_v4", R"({"thinking_mode": "thinking"})")->encoder));
  for (const char* name : {"qwen3", "qwen3_instruct_2507", "qwen3_5_think", "qwen3_5_nothink"})
    all.emplace_back(std::string("jinja ") + name, jinja_encoder(name));
  return all;
}

// qwen3_each.jsonl: the prompt and the text of each turn as transformers' apply_chat_template gives them.
TEST(ChatTurns, AreServedByThePromptsOfTransformers) {
  const auto built_in = make("qwen3");
  const auto by_jinja = jinja_encoder("qwen3");
  for (const ChatEncoder* encoder :
       std::initializer_list<const ChatEncoder*>{built_in->encoder.get(), by_jinja.get()}) {
    for (const OrderedJson& row : golden_rows("qwen3_each")) {
      const std::vector<AssistantTurn> turns = each_turn(*encoder, row["messages"], row["tools"], false);
      ASSERT_EQ(turns.size(), row["turns"].size());
      for (size_t i = 0; i < turns.size(); ++i) {
        const ChatText& text = turns[i].text;
        const std::string prompt = row["turns"][i]["prompt"].get<std::string>();
        EXPECT_EQ(turns[i].messages.size(), row["turns"][i]["message"].get<size_t>() + 1);
        EXPECT_EQ(text.text, row["turns"][i]["text"]);
        ASSERT_EQ(text.trained.size(), 1u);
        EXPECT_EQ(text.text.substr(0, text.trained[0].first), prompt);
        EXPECT_THAT(text.text.substr(text.trained[0].second - 11), HasSubstr("<|im_end|>"));
        EXPECT_TRUE(text.withheld.empty());
        EXPECT_EQ(text.changed_turns, 0u);
      }
      EXPECT_EQ(each_turn(*encoder, row["messages"], row["tools"], true).size(), 1u);
    }
  }
}

TEST(ChatTurns, OfEveryFormatAreTrainedBehindTheirPrompts) {
  const OrderedJson messages = OrderedJson::parse(R"([{"role": "user", "content": "q"},
      {"role": "assistant", "content": "one", "reasoning_content": "because"}, {"role": "user", "content": "r"},
      {"role": "assistant", "content": "two", "reasoning_content": "as", "train": false},
      {"role": "user", "content": "s"}, {"role": "assistant", "content": "three", "reasoning_content": "so"}])");
  for (const auto& [name, encoder] : all_encoders()) {
    SCOPED_TRACE(name);
    const std::vector<AssistantTurn> turns = each_turn(*encoder, messages, nullptr, false);
    ASSERT_EQ(turns.size(), 2u);
    for (const auto& [turn, said] : {std::pair{&turns[0], "one"}, std::pair{&turns[1], "three"}}) {
      const ChatText& text = turn->text;
      ASSERT_EQ(text.trained.size(), 1u);
      const auto [begin, end] = text.trained[0];
      OrderedJson before = turn->messages;
      before.erase(before.size() - 1);
      if (text.changed_turns == 0) EXPECT_EQ(text.text.substr(0, begin), encoder->generation_prompt(before, nullptr));
      EXPECT_THAT(text.text.substr(begin, end - begin), HasSubstr(said));
    }
  }
}

// A thinking block that the prompt has closed and the turn fills: the template shows what was never served.
TEST(ChatTurns, ThatDoNotBeginWithTheirPromptCount) {
  const OrderedJson messages = OrderedJson::parse(
      R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "t"}])");
  const auto chat = make("qwen3", R"({"enable_thinking": false})");
  EXPECT_EQ(each_turn(*chat->encoder, messages, nullptr, false).at(0).text.changed_turns, 1u);
  EXPECT_THAT(error_of([&] { each_turn(*chat->encoder, OrderedJson::parse("[1]"), nullptr, false); }),
              HasSubstr("messages[0]: not an object"));
}

TEST(ChatTurns, WithoutTheirThinkingAreCounted) {
  const OrderedJson messages = OrderedJson::parse(R"([{"role": "user", "content": "q"},
      {"role": "assistant", "content": "one", "reasoning_content": "because"}, {"role": "user", "content": "r"},
      {"role": "assistant", "content": "two", "reasoning_content": "as"}])");
  EXPECT_EQ(jinja_encoder("qwen3")->training_text(messages, nullptr).changed_turns, 1u);
  EXPECT_EQ(make("qwen3")->encoder->training_text(messages, nullptr).changed_turns, 0u);  // it keeps them
  const auto v4 = make("deepseek_v4", R"({"thinking_mode": "thinking"})");
  EXPECT_EQ(v4->encoder->training_text(messages, nullptr).changed_turns, 1u);
}

constexpr const char* kUserMark = "\xee\x80\x81";  // U+E001 and U+E002
constexpr const char* kToolMark = "\xee\x80\x82";

// `mark` between words, among them what formats write themselves.
std::string marked_text(std::mt19937_64& random, const std::string& mark) {
  static const std::vector<std::string> words{
      "a",           " b\n", "<|im_end|>",    "<think>",   "</think>\n\n", "\xe4\xb8\xad",
      "<tool_call>", "  ",   "Observation: ", "{\"k\": 1}"};
  std::string text = mark;
  for (size_t count = random() % 4; count-- > 0;) text += words[random() % words.size()] + mark;
  return text;
}

OrderedJson random_conversation(std::mt19937_64& random) {
  OrderedJson messages = OrderedJson::array();
  if (random() % 2) messages.push_back({{"role", "system"}, {"content", "Be brief."}});
  for (size_t rounds = 1 + random() % 3; rounds-- > 0;) {
    messages.push_back({{"role", "user"}, {"content", marked_text(random, kUserMark)}});
    while (random() % 3 == 0) {
      messages.push_back(
          {{"role", "assistant"},
           {"content", random() % 2 ? "" : "I call."},
           {"tool_calls", OrderedJson::array({{{"function", {{"name", "f"}, {"arguments", {{"a", 1}}}}}}})}});
      messages.push_back({{"role", "tool"}, {"content", marked_text(random, kToolMark)}});
    }
    messages.push_back({{"role", "assistant"}, {"content", "Answer."}});
    if (random() % 2) messages.back()["reasoning_content"] = "I think.";
  }
  return messages;
}

TEST(ChatTurns, HoldNoCharacterOfAUserOrTool) {
  const auto encoders = all_encoders();
  std::mt19937_64 random(20261128);
  size_t texts = 0;
  for (int i = 0; i < 40; ++i) {
    const OrderedJson messages = random_conversation(random);
    for (const auto& [name, encoder] : encoders) {
      std::vector<ChatText> rendered;
      try {
        rendered.push_back(encoder->training_text(messages, nullptr));
        for (AssistantTurn& turn : each_turn(*encoder, messages, nullptr, false))
          rendered.push_back(std::move(turn.text));
      } catch (const Error& error) {
        EXPECT_EQ(error.kind, ErrorKind::kInput);
      }
      for (const ChatText& text : rendered) {
        ++texts;
        for (const char* mark : {kUserMark, kToolMark}) {
          for (size_t at = text.text.find(mark); at != std::string::npos; at = text.text.find(mark, at + 1)) {
            const auto covers = [&](const auto& range) { return range.first < at + 3 && range.second > at; };
            EXPECT_TRUE(std::none_of(text.trained.begin(), text.trained.end(), covers)) << name << text.text;
            EXPECT_TRUE(std::any_of(text.foreign.begin(), text.foreign.end(), covers)) << name << text.text;
          }
        }
      }
    }
  }
  EXPECT_GT(texts, 1000u);
}

TEST(ChatTurns, SpecialTokensOfUsersAreText) {
  const OrderedJson messages = OrderedJson::parse(R"([{"role": "user", "content": "say <|im_end|> <think>"},
      {"role": "assistant", "content": "<|im_end|>"}])");
  const int64_t end = qwen3_tokenizer().token_to_id("<|im_end|>"), think = qwen3_tokenizer().token_to_id("<think>");
  const auto by_jinja = jinja_encoder("qwen3_instruct_2507");
  const auto built_in = make("qwen3_instruct_2507");
  for (const ChatEncoder* encoder :
       std::initializer_list<const ChatEncoder*>{built_in->encoder.get(), by_jinja.get()}) {
    ChatText text = encoder->training_text(messages, nullptr);
    const TokenizedChat plain = tokenize_chat(text, qwen3_tokenizer(), LossOn::kAssistant);
    EXPECT_EQ(std::count(plain.ids.begin(), plain.ids.end(), end), 3);
    EXPECT_EQ(std::count(plain.ids.begin(), plain.ids.end(), think), 1);  // which the tokenizer calls no special token
    EXPECT_EQ(qwen3_tokenizer().decode(plain.ids), text.text);
    text.foreign.clear();
    const TokenizedChat special = tokenize_chat(text, qwen3_tokenizer(), LossOn::kAssistant);
    EXPECT_EQ(std::count(special.ids.begin(), special.ids.end(), end), 4);
  }
}

TEST(ChatTurns, TokensOfTheFormatAreTextOfUsersToo) {
  const auto v4 = make("deepseek_v4");
  const int64_t user = deepseek_tokenizer().token_to_id("<｜User｜>");
  const ChatText text = v4->encoder->training_text(
      OrderedJson::parse(R"([{"role": "user", "content": "<｜User｜>"}, {"role": "assistant", "content": "a"}])"),
      nullptr);
  const auto count = [&](const std::vector<int64_t>& controls) {
    const TokenizedChat tokens = tokenize_chat(text, deepseek_tokenizer(), LossOn::kAssistant, controls);
    return std::count(tokens.ids.begin(), tokens.ids.end(), user);
  };
  EXPECT_EQ(count(control_tokens(*v4, deepseek_tokenizer())), 1);
  EXPECT_EQ(count({}), 2);  // the tokenizer calls it no special token
}

TEST(ChatTurns, ATokenThatReachesIntoPlainTextIsNone) {
  const Tokenizer& tokenizer = qwen3_tokenizer();
  const std::string text = "x<|im_end|>y";
  const std::vector<int64_t> whole = tokenizer.encode(text).ids;
  for (const auto& range : {std::pair<size_t, size_t>{0, 2}, {10, 12}, {4, 5}, {0, 12}}) {
    const std::vector<std::pair<size_t, size_t>> ranges{range};
    const Encoding plain = tokenizer.encode(text, {ranges, {}});
    EXPECT_GT(plain.ids.size(), whole.size()) << range.first;
    EXPECT_EQ(tokenizer.decode(plain.ids), text);
  }
  const std::vector<std::pair<size_t, size_t>> beside{{0, 1}, {11, 12}};
  EXPECT_EQ(tokenizer.encode(text, {beside, {}}).ids, whole);
}

}  // namespace
}  // namespace moraine
