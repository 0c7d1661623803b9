#include "text/chat/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "text/chat/template_detection.h"
#include "text/chat/tojson.h"
#include "text/chats.h"
#include "text/jinja/python_text.h"

namespace moraine {
namespace {

using testing::HasSubstr;

// `options`: what the row's own options are added to; Qwen3.5's two released templates differ in a default.
struct GoldenFile {
  const char* file;
  const char* name;
  const char* options = "{}";

  std::unique_ptr<ChatTemplate> make_for(const OrderedJson& row) const {
    Json all = Json::parse(options);
    all.update(Json::parse(row["options"].dump()));
    return make(name, all.dump().c_str());
  }
};

class TemplateGoldens : public testing::TestWithParam<GoldenFile> {};

TEST_P(TemplateGoldens, EveryRowRendersAsTheReleasedTemplate) {
  const auto rows = golden_rows(GetParam().file);
  ASSERT_EQ(rows.size(), 24u);
  for (size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(i);
    const OrderedJson& row = rows[i];
    auto chat = GetParam().make_for(row);
    EXPECT_EQ(chat->format.name, GetParam().name);
    EXPECT_EQ(chat->encoder->inference_text(row["messages"], row["tools"]), row["inference_text"]);
    EXPECT_EQ(chat->encoder->training_text(row["messages"], row["tools"]).text, row["training_text"]);
    OrderedJson question = row["messages"];
    question.erase(question.size() - 1);
    EXPECT_EQ(chat->encoder->generation_prompt(question, row["tools"]), row["generation_prompt"]);
  }
}

TEST_P(TemplateGoldens, EveryRowTokenisesWithItsLossMask) {
  for (const OrderedJson& row : golden_rows(GetParam().file)) {
    auto chat = GetParam().make_for(row);
    ChatText text = chat->encoder->training_text(row["messages"], row["tools"]);
    text.foreign.clear();  // transformers reads special tokens in it
    const TokenizedChat tokens = tokenize_chat(text, qwen3_tokenizer(), LossOn::kAssistant);
    EXPECT_EQ(tokens.ids, row["training_ids"].get<std::vector<int64_t>>()) << text.text;
    EXPECT_EQ(tokens.loss_mask, row["loss_mask"].get<std::vector<uint8_t>>()) << text.text;
    EXPECT_EQ(qwen3_tokenizer().encode(chat->encoder->inference_text(row["messages"], row["tools"])).ids,
              row["inference_ids"].get<std::vector<int64_t>>());
  }
}

INSTANTIATE_TEST_SUITE_P(Qwen3, TemplateGoldens,
                         testing::Values(GoldenFile{"qwen3", "qwen3"}, GoldenFile{"qwen3_no_think", "qwen3"},
                                         GoldenFile{"qwen3_instruct_2507", "qwen3_instruct_2507"},
                                         GoldenFile{"qwen3_5_think", "qwen3_5"},
                                         GoldenFile{"qwen3_5_nothink", "qwen3_5", R"({"enable_thinking":false})"}),
                         [](const auto& info) { return std::string(info.param.file); });

TEST(ChatTemplate, MessagesMayBeLeftOutOfTraining) {
  const auto trained = [](const char* name, const std::string& first_flag, const std::string& last_flag,
                          LossOn loss_on) {
    const OrderedJson messages = OrderedJson::parse(
        R"([{"role":"user","content":"a","weight":0,"train":false},{"role":"assistant","content":"b")" + first_flag +
        R"(},{"role":"user","content":"c","loss":null},{"role":"assistant","content":"d")" + last_flag + "}]");
    const ChatText chat = make(name, name == std::string("react") ? R"({"base":"qwen3_instruct_2507"})" : "{}")
                              ->encoder->training_text(messages, nullptr);
    const TokenizedChat tokens = tokenize_chat(chat, qwen3_tokenizer(), loss_on);
    std::vector<int64_t> ids;
    for (size_t i = 0; i < tokens.ids.size(); ++i) {
      if (tokens.loss_mask[i]) ids.push_back(tokens.ids[i]);
    }
    return qwen3_tokenizer().decode(ids);
  };
  for (const char* flag : {R"(,"weight":0)", R"(,"weight":0.0)", R"(,"train":false)", R"(,"loss":false)",
                           R"(,"train":false,"weight":0)"}) {
    for (const char* name : {"qwen3_instruct_2507", "react"}) {
      SCOPED_TRACE(name + std::string(flag));
      EXPECT_EQ(trained(name, flag, "", LossOn::kAssistant), "d<|im_end|>\n");
      EXPECT_EQ(trained(name, "", flag, LossOn::kAssistant), "b<|im_end|>\n");
      EXPECT_EQ(trained(name, flag, flag, LossOn::kAssistant), "");
      EXPECT_EQ(trained(name, "", flag, LossOn::kLast), "");
      EXPECT_EQ(trained(name, flag, "", LossOn::kAll),
                "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<|im_start|>user\nc<|im_end|>\n"
                "<|im_start|>assistant\nd<|im_end|>\n");
    }
    EXPECT_EQ(trained("qwen3", "", flag, LossOn::kAssistant), "<think>\n\n</think>\n\nb<|im_end|>\n");
    EXPECT_EQ(trained("qwen3_5", flag, "", LossOn::kAssistant), "<think>\n\n</think>\n\nd<|im_end|>\n");
  }
  EXPECT_EQ(trained("qwen3_instruct_2507", R"(,"weight":1)", R"(,"train":true)", LossOn::kAssistant),
            "b<|im_end|>\nd<|im_end|>\n");
}

TEST(ChatTemplate, OtherFlagsOfTrainingAreRefused) {
  const auto error = [](const std::string& flag, const std::string& role = "assistant") {
    const std::string last = R"({"role":")" + role + R"(","content":"a",)" + flag + "}";
    return error_of([&] { training_text("qwen3", (R"([{"role":"user","content":"q"},)" + last + "]").c_str()); });
  };
  for (const char* weight : {"0.5", "2", "-1", "\"1\"", "true", "[]"}) {
    EXPECT_EQ(error("\"weight\":" + std::string(weight)),
              "chats.jsonl:1: messages[1]: 'weight' is not 0 or 1 "
              "(1 or true trains an assistant's message, 0 or false leaves it out)");
  }
  EXPECT_THAT(error(R"("train":1)"), HasSubstr("messages[1]: 'train' is not true or false"));
  EXPECT_THAT(error(R"("loss":0.3)"), HasSubstr("messages[1]: 'loss' is not true or false"));
  EXPECT_THAT(error(R"("weight":0,"train":true)"), HasSubstr("contradict each other"));
  EXPECT_THAT(error(R"("train":true)", "user"), HasSubstr("not an assistant's cannot be trained by itself"));
}

TEST(ChatTemplate, TrainedRangesAreWhatTheAssistantSays) {
  const auto messages = OrderedJson::parse(
      R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"},
          {"role":"user","content":"c"},{"role":"assistant","content":"d"}])");
  const ChatText chat = make("qwen3")->encoder->training_text(messages, nullptr);
  ASSERT_EQ(chat.trained.size(), 2u);
  const auto said = [&](size_t i) {
    return chat.text.substr(chat.trained[i].first, chat.trained[i].second - chat.trained[i].first);
  };
  EXPECT_EQ(said(0), "<think>\n\n</think>\n\nb<|im_end|>\n");
  EXPECT_EQ(said(1), "<think>\n\n</think>\n\nd<|im_end|>\n");
}

TEST(ChatTemplate, LossOnLastAndAll) {
  const auto messages = OrderedJson::parse(
      R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"},
          {"role":"user","content":"c"},{"role":"assistant","content":"d"},{"role":"user","content":"e"}])");
  const ChatText chat = make("qwen3_instruct_2507")->encoder->training_text(messages, nullptr);
  const auto trained_text = [&](LossOn loss_on) {
    const TokenizedChat tokens = tokenize_chat(chat, qwen3_tokenizer(), loss_on);
    std::vector<int64_t> ids;
    for (size_t i = 0; i < tokens.ids.size(); ++i) {
      if (tokens.loss_mask[i]) ids.push_back(tokens.ids[i]);
    }
    return qwen3_tokenizer().decode(ids);
  };
  EXPECT_EQ(trained_text(LossOn::kAssistant), "b<|im_end|>\nd<|im_end|>\n");
  EXPECT_EQ(trained_text(LossOn::kLast), "d<|im_end|>\n");
  EXPECT_EQ(trained_text(LossOn::kAll), chat.text);
}

TEST(ChatTemplate, NothingIsTrainedWithoutAnAnswer) {
  const TokenizedChat tokens = tokenize_chat({"abc", {}}, qwen3_tokenizer(), LossOn::kLast);
  EXPECT_THAT(tokens.loss_mask, testing::Each(0));
}

TEST(ChatTemplate, PartsOfContentAreJoined) {
  EXPECT_EQ(training_text("qwen3_instruct_2507",
                          R"([{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}])"),
            "<|im_start|>user\nab<|im_end|>\n");
}

TEST(ChatTemplate, ThinkingHasTwoKeys) {
  for (const char* name : {"qwen3", "qwen3_5"}) {
    const auto text = [&](const std::string& keys) {
      const std::string answer = R"({"role":"assistant","content":"a")" + keys + "}";
      return training_text(name, (R"([{"role":"user","content":"q"},)" + answer + "]").c_str());
    };
    const std::string want = text(R"(,"reasoning_content":"hm")");
    EXPECT_THAT(want, testing::EndsWith("<think>\nhm\n</think>\n\na<|im_end|>\n"));
    EXPECT_EQ(text(R"(,"reasoning":"hm")"), want);
    EXPECT_EQ(text(R"(,"reasoning":"hm","reasoning_content":"hm")"), want);
    EXPECT_EQ(text(R"(,"reasoning":"hm","reasoning_content":"")"), want);
    EXPECT_EQ(text(R"(,"reasoning":"","reasoning_content":"hm")"), want);
    EXPECT_EQ(text(R"(,"reasoning":"")"), text(""));
    EXPECT_EQ(error_of([&] { text(R"(,"reasoning":"x","reasoning_content":"hm")"); }),
              "chats.jsonl:1: messages[1]: reasoning_content and reasoning differ (give one of them)");
    EXPECT_THAT(error_of([&] { text(R"(,"reasoning":1)"); }), HasSubstr("messages[1]: reasoning is not text"));
  }
}

TEST(ChatTemplate, ToolCallsMayLackTheFunctionWrapperAndHoldArgumentsAsText) {
  EXPECT_EQ(training_text("qwen3_instruct_2507", R"([{"role":"assistant","content":null,"tool_calls":[
              {"name":"f","arguments":"{\"a\":1}"},{"function":{"name":"g","arguments":{"a":[]}}}]}])"),
            "<|im_start|>assistant\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n</tool_call>\n"
            "<tool_call>\n{\"name\": \"g\", \"arguments\": {\"a\": []}}\n</tool_call><|im_end|>\n");
}

TEST(ChatTemplate, MessagesThatTheFormatCannotExpressAreRefused) {
  const auto error = [](const char* messages, const char* tools = "null") {
    return error_of([&] { training_text("qwen3", messages, tools); });
  };
  EXPECT_EQ(error(R"([{"role":"user","content":"a"},{"role":"asistant","content":"b"}])"),
            "chats.jsonl:1: messages[1]: unknown role 'asistant' (roles: system, user, assistant and tool)");
  EXPECT_THAT(error("[]"), HasSubstr("chats.jsonl:1: no messages"));
  EXPECT_THAT(error("{}"), HasSubstr("messages is not a list"));
  EXPECT_THAT(error(R"(["hello"])"), HasSubstr("messages[0]: not an object"));
  EXPECT_THAT(error(R"([{"content":"a"}])"), HasSubstr("messages[0]: no role"));
  EXPECT_THAT(error(R"([{"role":"user"}])"), HasSubstr("messages[0]: no content"));
  EXPECT_THAT(error(R"([{"role":"user","content":7}])"), HasSubstr("content is of type number"));
  EXPECT_THAT(error(R"([{"role":"tool","content":{"a":1}}])"), HasSubstr("write it as a JSON string"));
  EXPECT_THAT(error(R"([{"role":"user","content":[{"type":"image","image":"x"}]}])"), HasSubstr("is not text"));
  EXPECT_THAT(error(R"([{"role":"assistant","content":"","tool_calls":{}}])"), HasSubstr("tool_calls is not a list"));
  EXPECT_THAT(error(R"([{"role":"assistant","content":"","tool_calls":[{"name":"f"}]}])"),
              HasSubstr("without arguments"));
  EXPECT_THAT(error(R"([{"role":"assistant","content":"","tool_calls":[{"arguments":{}}]}])"),
              HasSubstr("without a name"));
  EXPECT_THAT(error(R"([{"role":"assistant","content":"","reasoning_content":1}])"), HasSubstr("reasoning_content"));
  EXPECT_THAT(error(R"([{"role":"user","content":"a"}])", R"({"a":1})"), HasSubstr("tools is not a list"));
  EXPECT_THAT(error(R"([{"role":"user","content":"a"}])", R"([1])"), HasSubstr("a tool is not an object"));
}

TEST(ChatTemplate, UnknownNamesAndOptionsListTheKnownOnes) {
  EXPECT_EQ(error_of([] { make("llama"); }),
            "data.template: unknown template 'llama' (available: auto, qwen3, qwen3_instruct_2507, qwen3_5, "
            "deepseek_v4 and react)");
  EXPECT_THAT(error_of([] { make("qwen3_5", R"({"thinking":true})"); }),
              HasSubstr("unknown option 'thinking' (qwen3_5 takes enable_thinking)"));
  EXPECT_THAT(error_of([] { make("qwen3", R"({"thinking":true})"); }),
              HasSubstr("data.template_options: unknown option 'thinking' (qwen3 takes enable_thinking)"));
  EXPECT_THAT(error_of([] { make("qwen3", R"({"enable_thinking":"no"})"); }),
              HasSubstr("enable_thinking: not true or false"));
  EXPECT_THAT(error_of([] { make("qwen3_instruct_2507", R"({"enable_thinking":true})"); }),
              HasSubstr("has no thinking"));
  EXPECT_NO_THROW(make("qwen3_instruct_2507", R"({"enable_thinking":false})"));
  EXPECT_NO_THROW(make("qwen3", "null"));
}

TEST(DetectTemplate, ReadsTheJinjaFile) {
  const std::pair<const char*, const char*> cases[] = {{"qwen3", "qwen3"},
                                                       {"qwen3_instruct_2507", "qwen3_instruct_2507"},
                                                       {"qwen3_5_think", "qwen3_5"},
                                                       {"qwen3_5_nothink", "qwen3_5"}};
  for (const auto& [file, name] : cases) {
    Folder folder;
    fs::copy_file(kGolden / "templates" / (std::string(file) + ".jinja"), folder.path / "chat_template.jinja");
    EXPECT_EQ(make_chat_template("auto", Json::object(), folder.path)->format.name, name);
  }
}

TEST(DetectTemplate, ThinkingIsByDefaultWhatTheTemplateSays) {
  const auto messages = OrderedJson::parse(R"([{"role":"user","content":"q"}])");
  const auto prompt = [&](const char* file, Json options) {
    Folder folder;
    fs::copy_file(kGolden / "templates" / file, folder.path / "chat_template.jinja");
    return make_chat_template("auto", options, folder.path)->encoder->generation_prompt(messages, nullptr);
  };
  const std::string begin = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", empty = "<think>\n\n</think>\n\n";
  EXPECT_EQ(prompt("qwen3_5_think.jinja", Json::object()), begin + "<think>\n");
  EXPECT_EQ(prompt("qwen3_5_nothink.jinja", Json::object()), begin + empty);
  EXPECT_EQ(prompt("qwen3_5_think.jinja", {{"enable_thinking", false}}), begin + empty);
  EXPECT_EQ(prompt("qwen3_5_nothink.jinja", {{"enable_thinking", true}}), begin + "<think>\n");
  EXPECT_EQ(prompt("qwen3.jinja", Json::object()), begin);
}

TEST(DetectTemplate, ReadsTheTokenizerConfig) {
  const std::string jinja = read_text_file(kGolden / "templates/qwen3.jinja");
  Folder folder;
  folder.write("tokenizer_config.json", Json({{"chat_template", jinja}}).dump());
  EXPECT_EQ(detect_chat_template(folder.path).always.format->name, "qwen3");
  const Json list = Json::array({{{"name", "rag"}, {"template", "x"}}, {{"name", "default"}, {"template", jinja}}});
  folder.write("tokenizer_config.json", Json({{"chat_template", list}}).dump());
  EXPECT_EQ(detect_chat_template(folder.path).always.format->name, "qwen3");
  // The file of its own goes first, and that the other differs is said.
  fs::copy_file(kGolden / "templates/qwen3_instruct_2507.jinja", folder.path / "chat_template.jinja");
  testing::internal::CaptureStderr();
  EXPECT_EQ(detect_chat_template(folder.path).always.format->name, "qwen3_instruct_2507");
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("tokenizer_config.json: its chat_template differs from"));
}

TEST(DetectTemplate, RowsWithToolsMayHaveATemplateOfTheirOwn) {
  const std::string jinja = read_text_file(kGolden / "templates/qwen3.jinja");
  const auto error = [](const Folder& folder) { return error_of([&] { detect_chat_template(folder.path); }); };
  const auto with_tool_use = [&](const std::string& other) {
    return Json({{"chat_template",
                  {{{"name", "default"}, {"template", jinja}}, {{"name", "tool_use"}, {"template", other}}}}})
        .dump();
  };
  Folder in_config, in_folder;
  in_config.write("tokenizer_config.json", with_tool_use(jinja));
  EXPECT_EQ(detect_chat_template(in_config.path).always.format->name, "qwen3");
  EXPECT_FALSE(detect_chat_template(in_config.path).with_tools);
  in_config.write("tokenizer_config.json",
                  with_tool_use(read_text_file(kGolden / "templates/qwen3_instruct_2507.jinja")));
  EXPECT_EQ(detect_chat_template(in_config.path).with_tools->format->name, "qwen3_instruct_2507");
  EXPECT_FALSE(detect_chat_template(in_config.path, "default").with_tools);
  EXPECT_EQ(detect_chat_template(in_config.path, "tool_use").always.format->name, "qwen3_instruct_2507");
  EXPECT_THAT(error_of([&] { detect_chat_template(in_config.path, "rag"); }),
              testing::AllOf(HasSubstr("no chat template is called 'rag'"),
                             HasSubstr("data.template_name: default or tool_use")));
  // Files of a folder replace what the config lists.
  in_folder.write("tokenizer_config.json", Json({{"chat_template", jinja}}).dump());
  fs::create_directory(in_folder.path / "additional_chat_templates");
  in_folder.write("additional_chat_templates/tool_use.jinja", jinja);
  EXPECT_THAT(error(in_folder), HasSubstr("none is the default"));
  in_folder.write("chat_template.jinja", jinja + "\n");
  EXPECT_EQ(detect_chat_template(in_folder.path).always.format->name, "qwen3");
}

// A list is not null, however short: as in transformers.
TEST(DetectTemplate, TheRowsToolsDecideWhichOfTwoTemplatesRendersIt) {
  const std::string plain =
      "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
      "{% if add_generation_prompt %}[assistant]{% endif %}";
  Folder folder;
  const auto write = [&](const std::string& with_tools) {
    const Json list =
        Json::array({{{"name", "default"}, {"template", plain}}, {{"name", "tool_use"}, {"template", with_tools}}});
    folder.write("tokenizer_config.json", Json({{"chat_template", list}}).dump());
  };
  write("TOOLS " + plain);
  const OrderedJson messages =
      OrderedJson::parse(R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])");
  const auto text = [&](const OrderedJson& tools, const std::string& name) {
    const auto chat = make_chat_template("auto", Json::object(), folder.path, name);
    const ChatText together = chat->encoder->training_text(messages, tools);
    EXPECT_EQ(together.text, chat->encoder->turn_text(messages, tools).text);
    EXPECT_EQ(together.text, chat->encoder->inference_text(messages, tools));
    EXPECT_THAT(chat->encoder->generation_prompt(messages, tools), testing::EndsWith("[assistant]"));
    return together.text;
  };
  const std::string rendered = "[user]q<|im_end|>[assistant]a<|im_end|>";
  EXPECT_EQ(text(nullptr, ""), rendered);
  EXPECT_EQ(text(OrderedJson::array(), ""), "TOOLS " + rendered);
  EXPECT_EQ(text(OrderedJson::array(), "default"), rendered);
  EXPECT_EQ(text(nullptr, "tool_use"), "TOOLS " + rendered);
  EXPECT_THAT(error_of([&] { make_chat_template("qwen3", Json::object(), folder.path, "tool_use"); }),
              HasSubstr("data.template_name: names one of the checkpoint's own templates, but data.template is qwen3"));
  write("{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}");
  EXPECT_THAT(error_of([&] { make_chat_template("auto", Json::object(), folder.path); }),
              HasSubstr("end the assistant's turns with different tokens"));
}

TEST(DetectTemplate, OnlyReleasedTextsAreTaken) {
  const auto format = [](const std::string& jinja) {
    const auto known = recognise_chat_template(jinja);
    return known ? known->format->name : "none";
  };
  const auto likeness = [](const std::string& jinja) {
    const ChatFormat* alike = resembling_format(jinja);
    return alike != nullptr ? alike->name : "none";
  };
  const auto edited = [](std::string jinja, const std::string& from, const std::string& to) {
    const size_t at = jinja.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return at == jinja.npos ? jinja : jinja.replace(at, from.size(), to);
  };
  for (const char* name : {"qwen3", "qwen3_instruct_2507"}) {
    const std::string jinja = read_text_file(kGolden / "templates" / (std::string(name) + ".jinja"));
    EXPECT_EQ(format(jinja), name);
    // Jinja drops a newline at the end and takes all line ends for the same.
    EXPECT_EQ(format(jinja + "\n"), name);
    std::string other_ends;
    for (char c : jinja) other_ends += c == '\n' ? std::string("\r\n") : std::string(1, c);
    EXPECT_EQ(format(other_ends + "\r\n"), name);
    const std::string turn = "{{- '<|im_start|>' + message.role + '\\n' + content }}";
    for (const std::string& changed :
         {jinja + "\n\n", " " + jinja, "{# our own copy #}" + jinja, "\xef\xbb\xbf" + jinja,
          edited(jinja, "You may call one or more functions", "Call a tool"),
          edited(jinja, turn, "{{- '<|im_start|>model\\n' + content }}"),
          edited(jinja, turn, turn + "{% generation %}{% endgeneration %}"),
          edited(jinja, "<|im_end|>\\n", "<|im_end|>")}) {
      EXPECT_EQ(format(changed), "none");
      EXPECT_EQ(likeness(changed), name);
    }
  }
  const std::string qwen3_5 = read_text_file(kGolden / "templates/qwen3_5_think.jinja");
  const std::string keeps_thinking = edited(qwen3_5, "loop.index0 > ns.last_query_index", "true");
  EXPECT_EQ(format(keeps_thinking), "none");
  EXPECT_EQ(likeness(keeps_thinking), "qwen3_5");
  for (const char* other :
       {"", "{% for message in messages %}<|start_header_id|>{{ message.role }}<|eot_id|>{% endfor %}",
        "{% for m in messages %}{{'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n'}}"}) {
    EXPECT_EQ(format(other), "none");
    EXPECT_EQ(likeness(other), "none");
  }
}

TEST(DetectTemplate, AChangedOneIsRenderedAsItIsUnlessAFormatIsNamed) {
  Folder folder;
  folder.write("chat_template.jinja",
               "{% for m in messages %}<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>\n"
               "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  const OrderedJson messages = OrderedJson::parse(
      R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}])");
  const auto chat = make_chat_template("auto", Json::object(), folder.path);
  EXPECT_EQ(chat->format.end_of_turn, "<|im_end|>");
  const ChatText text = chat->encoder->training_text(messages, nullptr);
  ASSERT_EQ(text.trained.size(), 1u);
  EXPECT_EQ(text.text.substr(text.trained[0].first, text.trained[0].second - text.trained[0].first), "a<|im_end|>");
  EXPECT_THAT(chat->encoder->generation_prompt(messages, nullptr),
              testing::EndsWith("r<|im_end|>\n<|im_start|>assistant\n"));
  const std::string file = (folder.path / "chat_template.jinja").string();
  EXPECT_EQ(make_chat_template(file, Json::object(), folder.path)->format.name, file);

  // One that only looks like a format's is rendered too, and that is said.
  folder.write("chat_template.jinja", read_text_file(kGolden / "templates/qwen3.jinja") + " ");
  testing::internal::CaptureStderr();
  EXPECT_EQ(make_chat_template("auto", Json::object(), folder.path)->format.end_of_turn, "<|im_end|>");
  EXPECT_EQ(make_chat_template("react", Json::object(), folder.path)->format.name, "react");
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("it resembles qwen3"));
  EXPECT_EQ(make_chat_template("qwen3", Json::object(), folder.path)->format.name, "qwen3");
  EXPECT_EQ(make_chat_template("react", Json{{"base", "qwen3"}}, folder.path)->format.name, "react");

  folder.write("chat_template.jinja", "{% for m in messages %}\n{{ m.content | nothing(}}");
  EXPECT_THAT(error_of([&] { make_chat_template("auto", Json::object(), folder.path); }),
              HasSubstr("chat_template.jinja:2:24: "));
}

TEST(DetectTemplate, ErrorsSayHowToMend) {
  Folder folder;
  const auto error = [&] { return error_of([&] { make_chat_template("auto", Json::object(), folder.path); }); };
  EXPECT_THAT(error(), HasSubstr(folder.path.string() + ": no chat template"));
  EXPECT_THAT(error(), HasSubstr("data.template: qwen3, qwen3_instruct_2507, qwen3_5 or deepseek_v4"));
  folder.write("tokenizer_config.json", "{\"model_max_length\": 5}");
  EXPECT_THAT(error(), HasSubstr("no chat template"));
  folder.write("tokenizer_config.json", "{\"chat_template\": 5}");
  EXPECT_THAT(error(), HasSubstr("tokenizer_config.json: chat_template is not text"));
  folder.write("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"a\", \"template\": \"\"}, {}]}");
  EXPECT_THAT(error(), HasSubstr("a list of other things than {name, template}"));
  folder.write("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"a\", \"template\": \"\"}]}");
  EXPECT_THAT(error(), HasSubstr("none is the default"));
}

TEST(ToJson, PrintsAsPython) {
  EXPECT_EQ(to_python_json(
                OrderedJson::parse(R"({"b":[1,2.0,-0.0,true,null],"a":{},"é":"<b>&'\"\\\n\u0001\u007f中👍","l":[]})")),
            "{\"b\": [1, 2.0, -0.0, true, null], \"a\": {}, \"é\": \"<b>&'\\\"\\\\\\n\\u0001\x7f中👍\", \"l\": []}");
}

TEST(ToJson, IntegersBeyond64BitsKeepTheirDigits) {
  const char* text = R"({"n": [18446744073709551615, 18446744073709551616, -9223372036854775809, 1e30]})";
  EXPECT_EQ(to_python_json(parse_exact_json(text, "row")),
            R"({"n": [18446744073709551615, 18446744073709551616, -9223372036854775809, 1e+30]})");
}

TEST(ToJson, PythonsTextOfAValue) {
  const auto values = parse_exact_json(R"(["a\"b", true, false, null, -1, 2.50, 1e-7, 36893488147419103232])", "row");
  const char* texts[] = {"a\"b", "True", "False", "None", "-1", "2.5", "1e-07", "36893488147419103232"};
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(to_python_str(values[i]), texts[i]);
}

TEST(ToJson, NumbersThatAreNotFiniteAsPythonPrintsThem) {
  const auto values = parse_exact_json("[NaN, Infinity, -Infinity]", "row");
  EXPECT_EQ(to_python_json(values), "[NaN, Infinity, -Infinity]");
  const char* texts[] = {"nan", "inf", "-inf"};
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(to_python_str(values[i]), texts[i]);
}

TEST(ToJson, TextInErrorsIsOneShortLine) {
  EXPECT_EQ(quoted_for_error("a\n\"b\""), "'a\\n\\\"b\\\"'");
  std::string characters;
  for (int i = 0; i < 40; ++i) characters += "中";
  EXPECT_EQ(quoted_for_error(characters), "'" + characters.substr(0, 60) + "…'");
  EXPECT_EQ(quoted_for_error("x" + characters), "'x" + characters.substr(0, 57) + "…'");
}

TEST(ToJson, FloatsAsPythonsRepr) {
  const std::pair<double, const char*> cases[] = {{0.0, "0.0"},
                                                  {1.0, "1.0"},
                                                  {-2.5, "-2.5"},
                                                  {0.1, "0.1"},
                                                  {0.30000000000000004, "0.30000000000000004"},
                                                  {0.0001, "0.0001"},
                                                  {0.00012345, "0.00012345"},
                                                  {0.00001, "1e-05"},
                                                  {1e15, "1000000000000000.0"},
                                                  {1234567890123456.5, "1234567890123456.5"},
                                                  {1e16, "1e+16"},
                                                  {1.5e22, "1.5e+22"},
                                                  {123456.789, "123456.789"},
                                                  {5e-324, "5e-324"},
                                                  {1.7976931348623157e308, "1.7976931348623157e+308"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(jinja::float_repr(value), text);
}

}  // namespace
}  // namespace moraine
