#include "text/rows/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "formats/safetensors.h"
#include "text/chats.h"
#include "text/rows/data_files.h"
#include "text/rows/dataset_bytes.h"

namespace moraine {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr int64_t kVocabSize = 151936;

class DatasetTest : public testing::Test {
 protected:
  DatasetTest() {
    std::string name = fs::temp_directory_path() / "moraine_dataset_XXXXXX";
    folder_ = mkdtemp(name.data());
    config_.chat_template = "qwen3_instruct_2507";
    chat_ = make_chat_template(config_.chat_template, Json::object(), folder_);
  }
  ~DatasetTest() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) {
    const fs::path path = folder_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }

  Dataset load(const std::string& file, int64_t vocab_size = kVocabSize) {
    return load_dataset({file}, config_, &qwen3_tokenizer(), chat_.get(), vocab_size);
  }
  // The whole text of the only row of a file with `text`.
  std::string only_text(const std::string& name, const std::string& text) {
    const Dataset dataset = load(write(name, text));
    EXPECT_EQ(dataset.samples.size(), 1u);
    return dataset.samples.empty() ? "" : qwen3_tokenizer().decode(dataset.samples[0].input_ids);
  }

  template <typename F>
  std::string error_of(F&& call) {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind, ErrorKind::kInput);
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      std::string line = error.what();
      // Paths of the temporary folder are no part of what is tested.
      const std::string prefix = folder_.string() + "/";
      for (size_t at; (at = line.find(prefix)) != line.npos;) line.erase(at, prefix.size());
      return line;
    }
    ADD_FAILURE() << "no error";
    return "";
  }
  std::string load_error(const std::string& name, const std::string& text) {
    const std::string file = write(name, text);
    return error_of([&] { load(file); });
  }

  std::string write_tokens(const std::string& name, std::vector<int64_t> shape, const std::vector<int64_t>& ids,
                           const std::vector<int64_t>& mask = {}, const std::vector<int64_t>& labels = {}) {
    std::vector<SafetensorsTensor> tensors;
    for (const auto& [tensor, values] :
         {std::pair{"input_ids", &ids}, {"attention_mask", &mask}, {"labels", &labels}}) {
      if (values->empty() && values != &ids) continue;
      tensors.push_back({tensor, DType::kI64, shape, std::as_bytes(std::span(*values))});
    }
    write_safetensors(folder_ / name, tensors);
    return (folder_ / name).string();
  }

  fs::path folder_;
  DataConfig config_;
  std::unique_ptr<ChatTemplate> chat_;
};

const char* const kChat = R"({"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello!"}]})";
const char* const kChatText = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n";

TEST_F(DatasetTest, Messages) {
  const Dataset dataset = load(write("a.jsonl", kChat));
  ASSERT_EQ(dataset.samples.size(), 1u);
  const Sample& sample = dataset.samples[0];
  EXPECT_EQ(qwen3_tokenizer().decode(sample.input_ids), kChatText);
  ASSERT_EQ(sample.labels.size(), sample.input_ids.size());
  std::vector<int64_t> trained;
  for (size_t i = 0; i < sample.labels.size(); ++i) {
    EXPECT_EQ(sample.position_ids[i], static_cast<int64_t>(i));
    if (sample.labels[i] == -100) continue;
    EXPECT_EQ(sample.labels[i], sample.input_ids[i]);
    trained.push_back(sample.labels[i]);
  }
  EXPECT_EQ(qwen3_tokenizer().decode(trained), "Hello!<|im_end|>\n");
}

TEST_F(DatasetTest, EachTurnMayBeARowOfItsOwn) {
  config_.turns = Turns::kEach;
  const std::string chats = R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"one"},)"
                            R"({"role":"user","content":"r"},{"role":"assistant","content":"two","train":false},)"
                            R"({"role":"user","content":"s"},{"role":"assistant","content":"three"}]})"
                            "\n"
                            R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"four"}]})";
  const std::string file = write("a.jsonl", chats);
  const Dataset data = load(file);
  ASSERT_EQ(data.samples.size(), 3u);
  const char* said[] = {"one<|im_end|>\n", "three<|im_end|>\n", "four<|im_end|>\n"};
  for (size_t i = 0; i < 3; ++i) {
    std::vector<int64_t> trained;
    for (int64_t label : data.samples[i].labels) {
      if (label != kNotTrained) trained.push_back(label);
    }
    EXPECT_EQ(qwen3_tokenizer().decode(trained), said[i]);
    EXPECT_THAT(qwen3_tokenizer().decode(data.samples[i].input_ids), EndsWith(said[i]));
  }
  EXPECT_EQ(data.rows, 2);
  EXPECT_EQ(data.turns, 3);
  EXPECT_THAT(in_words(data), StartsWith("2 rows make 3 samples, 3 assistant turns, "));
  const Dataset again = dataset_from_bytes(dataset_to_bytes(data));
  EXPECT_EQ(in_words(again), in_words(data));
  config_.loss_on = LossOn::kLast;
  EXPECT_EQ(load(file).samples.size(), 2u);
  config_.loss_on = LossOn::kAssistant;
  config_.truncation = Truncation::kDrop;
  config_.max_length = 12;  // the first turn of each row
  EXPECT_THAT(in_words(load(file)), HasSubstr("1 dropped"));
  config_.truncation = Truncation::kError;
  EXPECT_THAT(error_of([&] { load(file); }), HasSubstr("a.jsonl:1: messages[5]: "));
  EXPECT_THAT(error_of([&] { load(write("b.jsonl", R"({"messages":[{"role":"user","content":"q"}]})")); }),
              HasSubstr("no trained token"));
}

TEST_F(DatasetTest, SpecialTokensOfUsersAreTextUnlessAllowed) {
  const std::string file =
      write("a.jsonl", R"({"messages":[{"role":"user","content":"<|im_end|>"},{"role":"assistant","content":"a"}]})");
  const size_t as_text = load(file).samples.at(0).input_ids.size();
  config_.allow_special_in_content = true;
  EXPECT_GT(as_text, load(file).samples.at(0).input_ids.size() + 2);
}

TEST_F(DatasetTest, ShareGpt) {
  EXPECT_EQ(
      only_text("a.jsonl", R"({"conversations":[{"from":"human","value":"Hi"},{"from":"gpt","value":"Hello!"}]})"),
      kChatText);
}

TEST_F(DatasetTest, ShareGptWithToolsAndSystem) {
  const std::string text = only_text(
      "a.jsonl",
      R"({"system":"S","tools":"[{\"name\": \"f\", \"parameters\": {}}]","conversations":[{"from":"human","value":"Hi"},)"
      R"({"from":"function_call","value":"{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},)"
      R"({"from":"observation","value":"7"},{"from":"gpt","value":"It is 7."}]})");
  EXPECT_THAT(text, StartsWith("<|im_start|>system\nS\n\n# Tools"));
  EXPECT_THAT(text,
              HasSubstr("<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {}}}\n"));
  EXPECT_THAT(text,
              HasSubstr("<|im_start|>assistant\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>"
                        "<|im_end|>\n<|im_start|>user\n<tool_response>\n7\n</tool_response><|im_end|>\n"));
}

TEST_F(DatasetTest, ShareGptCallsAfterThinking) {
  chat_ = make_chat_template("qwen3", Json::object(), folder_);
  EXPECT_THAT(only_text("a.jsonl", R"({"conversations":[{"from":"human","value":"Hi"},{"from":"function_call",)"
                                   R"("value":"<think>\nhm\n</think>\n\n[{\"name\":\"f\",\"arguments\":{}}]"}]})"),
              HasSubstr("<think>\nhm\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>"));
}

TEST_F(DatasetTest, ShareGptCallsGiveTheirThinkingToEveryFormat) {
  const auto text = [&](const char* head) {
    chat_ = make_chat_template("deepseek_v4", Json{{"thinking_mode", "thinking"}}, folder_);
    OrderedJson turns = OrderedJson::array(
        {{{"from", "human"}, {"value", "Hi"}},
         {{"from", "function_call"}, {"value", std::string(head) + R"({"name":"f","arguments":{}})"}}});
    const ChatRow row = chat_of_row(DataFormat::kShareGpt, {{"conversations", turns}});
    return chat_->encoder->training_text(row.messages, row.tools).text;
  };
  EXPECT_THAT(text("<think>\nhm\n</think>\n\n"), HasSubstr("<｜Assistant｜><think>hm</think>\n\n<｜DSML｜tool_calls>"));
  EXPECT_THAT(text("Well. <think>hm</think>"), HasSubstr("<think></think>Well. <think>hm</think>\n\n<｜DSML｜"));
}

TEST_F(DatasetTest, TurnsLeftOutOfTraining) {
  const auto trained_text = [&](const std::string& row) {
    const Dataset dataset = load(write("a.jsonl", row));
    std::vector<int64_t> trained;
    for (int64_t label : dataset.samples.at(0).labels) {
      if (label != -100) trained.push_back(label);
    }
    return qwen3_tokenizer().decode(trained);
  };
  EXPECT_EQ(trained_text(R"({"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b","weight":0},)"
                         R"({"from":"human","value":"c","train":false},{"from":"gpt","value":"d","train":true}]})"),
            "d<|im_end|>\n");
  EXPECT_EQ(trained_text(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},)"
                         R"({"role":"user","content":"c"},{"role":"assistant","content":"d","loss":false}]})"),
            "b<|im_end|>\n");
  EXPECT_THAT(load_error("b.jsonl", R"({"messages":[{"role":"user","content":"a"},)"
                                    R"({"role":"assistant","content":"b","weight":0}]})"),
              testing::AllOf(HasSubstr("b.jsonl:1: the row has no trained token"), HasSubstr("data.loss_on"),
                             HasSubstr("flags weight, train and loss"), HasSubstr("drop_thinking")));
  EXPECT_THAT(load_error("c.jsonl", R"({"conversations":[{"from":"human","value":"a"},)"
                                    R"({"from":"gpt","value":"b","weight":0.5}]})"),
              HasSubstr("c.jsonl:1: messages[1]: 'weight' is not 0 or 1"));
}

TEST_F(DatasetTest, LongIntegersInToolsAndCallsKeepTheirDigits) {
  EXPECT_THAT(
      only_text("a.jsonl", R"({"id":99999999999999999999,"tools":"[{\"name\":\"f\",\"max\":18446744073709551616}]",)"
                           R"("conversations":[{"from":"human","value":"Hi"},{"from":"function_call",)"
                           R"("value":"{\"name\":\"f\",\"arguments\":{\"x\":-9223372036854775809}}"}]})"),
      testing::AllOf(HasSubstr("\"max\": 18446744073709551616"), HasSubstr("{\"x\": -9223372036854775809}")));
}

TEST_F(DatasetTest, Alpaca) {
  EXPECT_EQ(only_text("a.jsonl", R"({"instruction":"Hi","input":"","output":"Hello!"})"), kChatText);
  EXPECT_EQ(only_text("b.json", R"([{"instruction":"A","input":"B","output":"C","system":"S","history":[["q","a"]]}])"),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
            "<|im_start|>user\nA\nB<|im_end|>\n<|im_start|>assistant\nC<|im_end|>\n");
}

TEST_F(DatasetTest, TextRowsTrainEveryToken) {
  const Dataset dataset = load(write("a.jsonl", "{\"text\": \"one two\"}\n{\"text\": \"three four<|endoftext|>\"}\n"));
  ASSERT_EQ(dataset.samples.size(), 2u);
  EXPECT_EQ(qwen3_tokenizer().decode(dataset.samples[0].input_ids), "one two<|endoftext|>");
  EXPECT_EQ(qwen3_tokenizer().decode(dataset.samples[1].input_ids), "three four<|endoftext|>");
  EXPECT_EQ(dataset.samples[0].labels, dataset.samples[0].input_ids);
}

TEST_F(DatasetTest, ATextFileIsOneDocumentCutIntoRows) {
  config_.max_length = 4;
  std::string document = "\xef\xbb\xbf";
  for (int i = 0; i < 10; ++i) document += "word ";
  const std::string file = write("a.txt", document);
  const Dataset dataset = load(file);
  std::vector<int64_t> all;
  for (const Sample& sample : dataset.samples) {
    EXPECT_LE(sample.input_ids.size(), 4u);
    EXPECT_EQ(sample.labels, sample.input_ids);
    EXPECT_EQ(sample.position_ids.front(), 0);
    all.insert(all.end(), sample.input_ids.begin(), sample.input_ids.end());
  }
  EXPECT_EQ(qwen3_tokenizer().decode(all), document.substr(3) + "<|endoftext|>");
  EXPECT_EQ(dataset.truncated, 0);
  EXPECT_EQ(load_error("b.txt", " \n"), "b.txt: holds no text");
  EXPECT_EQ(load_error("c.txt", "one\ntwo\xff"), "c.txt:2: not UTF-8");
}

TEST_F(DatasetTest, BlankLinesCrlfAndByteOrderMarkAreSkipped) {
  const std::string chat = kChat;
  EXPECT_EQ(load(write("a.jsonl", "\xef\xbb\xbf\r\n" + chat + "\r\n\r\n  \n" + chat)).samples.size(), 2u);
}

TEST_F(DatasetTest, AnArrayOfRowsMaySpanLines) {
  const std::string chat = kChat;
  EXPECT_EQ(load(write("a.json", "[\n" + chat + ",\n" + chat + "\n]\n")).samples.size(), 2u);
  EXPECT_THAT(load_error("b.json", "[\n" + chat + ",\n{\"messages\":\n[{\"role\":\"x\",\"content\":\"]\\\"\"}]}]"),
              StartsWith("b.json:3: messages[0]: unknown role 'x'"));
  EXPECT_THAT(load_error("c.json", "[" + chat + ",\n" + chat), StartsWith("c.json:2: the array is not closed"));
  EXPECT_THAT(load_error("d.json", "[" + chat + ",\n]"), StartsWith("d.json:2: a comma without a row"));
  EXPECT_THAT(load_error("e.json", "[" + chat + "]\n[]"), StartsWith("e.json:2: text after the array's end"));
  EXPECT_EQ(load_error("f.json", "[ ]"), "f.json: holds no rows");
}

TEST_F(DatasetTest, FormatIsToldByTheFirstRow) {
  const auto format = [&](const std::string& name, const std::string& text) {
    return data_format_of(write(name, text), config_);
  };
  EXPECT_EQ(format("a.jsonl", kChat), DataFormat::kMessages);
  EXPECT_EQ(format("b.json", "[{\"conversations\": []}]"), DataFormat::kShareGpt);
  EXPECT_EQ(format("c.jsonl", "\n{\"output\": \"\", \"instruction\": \"\"}"), DataFormat::kAlpaca);
  EXPECT_EQ(format("d.jsonl", "{\"text\": \"\"}"), DataFormat::kText);
  EXPECT_EQ(format("e.txt", ""), DataFormat::kText);
  EXPECT_EQ(format("f.safetensors", ""), DataFormat::kTokens);
  EXPECT_THAT(load_error("g.jsonl", "{\"prompt\": 1}"), StartsWith("g.jsonl:1: the row is of no known format"));
  EXPECT_THAT(load_error("h.jsonl", "3"), StartsWith("h.jsonl:1: a row is not an object"));
  EXPECT_THAT(load_error("i.parquet", "PAR1"), StartsWith("i.parquet: .parquet files are not read"));
}

TEST_F(DatasetTest, FilesMayDifferInFormat) {
  const Dataset dataset = load_dataset({write("a.jsonl", kChat), write("b.jsonl", R"({"text":"some text"})")}, config_,
                                       &qwen3_tokenizer(), chat_.get(), kVocabSize);
  EXPECT_EQ(dataset.samples.size(), 2u);
}

TEST_F(DatasetTest, AGivenFormatIsHeld) {
  config_.format = DataFormatChoice::kAlpaca;
  EXPECT_EQ(load_error("a.jsonl", kChat), "a.jsonl:1: no 'instruction'");
  config_.format = DataFormatChoice::kShareGpt;
  EXPECT_EQ(load_error("a.jsonl", kChat), "a.jsonl:1: no list 'conversations'");
  config_.format = DataFormatChoice::kMessages;
  EXPECT_THAT(load_error("b.jsonl", R"({"text":"x"})"), StartsWith("b.jsonl:1: no 'messages'"));
  EXPECT_THAT(load_error("b.safetensors", ""), StartsWith("b.safetensors: data.format is not tokens"));
  config_.format = DataFormatChoice::kText;
  EXPECT_THAT(load_error("a.jsonl", kChat), StartsWith("a.jsonl:1: no text 'text'"));
}

TEST_F(DatasetTest, ErrorsNameFileAndLine) {
  const std::string chat = std::string(kChat) + "\n";
  EXPECT_THAT(load_error("a.jsonl", chat + "\n{\"messages\": [}\n"), StartsWith("a.jsonl:3: "));
  EXPECT_THAT(load_error("b.jsonl", chat + R"({"messages":[{"role":"bot","content":"x"}]})"),
              StartsWith("b.jsonl:2: messages[0]: unknown role 'bot'"));
  EXPECT_THAT(load_error("c.jsonl", R"({"conversations":[{"from":"bot","value":"x"}]})"),
              StartsWith("c.jsonl:1: conversations[0]: unknown role 'bot'"));
  EXPECT_THAT(load_error("d.jsonl", R"({"messages":[{"role":"user","content":"x"}]})"),
              StartsWith("d.jsonl:1: the row has no trained token"));
  EXPECT_EQ(load_error("e.jsonl", ""), "e.jsonl: holds no rows");
  EXPECT_EQ(load_error("f.jsonl", "\n\n"), "f.jsonl: holds no rows");
  EXPECT_EQ(error_of([&] { load((folder_ / "none.jsonl").string()); }), "none.jsonl: no such file");
  EXPECT_EQ(error_of([&] { load(folder_.string() + "/."); }), ".: not a regular file");
  EXPECT_THAT(load_error("g.jsonl", R"({"conversations":[{"from":"function_call","value":"f of x"}]})"),
              StartsWith("g.jsonl:1: conversations[0]: function_call: "));
}

TEST_F(DatasetTest, BadRowsAreReportedTogether) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += std::string(kChat) + "\n";
  const std::string good = text;
  EXPECT_EQ(load(write("good.jsonl", good)).samples.size(), 3000u);
  text += R"({"messages":[{"role":"user","content":")" + std::string(20000, 'x') + R"("}]})" + "\n{\nnonsense\n";
  EXPECT_THAT(
      load_error("a.jsonl", text),
      AllOf(
          StartsWith(
              "a.jsonl: 3 bad rows of 3003: a.jsonl:3001: the row has no trained token; a.jsonl:3002: malformed JSON"),
          HasSubstr("; a.jsonl:3003: malformed JSON"),
          EndsWith("(mend them; or leave them out with data.on_bad_rows: skip)")));
  // The first ten of many, of several files, and long ones in short.
  std::string many;
  for (int i = 0; i < 25; ++i)
    many += R"({"messages":[{"role":")" + std::string(500, 'r') + R"(","content":"x"}]})" + "\n";
  const std::vector<std::string> files{write("b.jsonl", std::string(kChat) + "\n{\n"),
                                       write("c.jsonl", std::string(kChat) + "\n" + many)};
  const std::string error =
      error_of([&] { load_dataset(files, config_, &qwen3_tokenizer(), chat_.get(), kVocabSize); });
  EXPECT_THAT(error, AllOf(StartsWith("data: 26 bad rows of 28: b.jsonl:2: "), HasSubstr("; c.jsonl:10: "),
                           HasSubstr("; and 16 more ("), Not(HasSubstr("c.jsonl:11"))));
  EXPECT_LT(error.size(), 3500u);
  config_.max_length = 3;
  EXPECT_THAT(load_error("f.jsonl", std::string(kChat) + "\n" + kChat),
              EndsWith("(raise data.max_length, or set data.truncation to right, left or drop; or leave them out with "
                       "data.on_bad_rows: skip)"));
  config_.max_length = 2048;
  // The first row tells the format only if it can.
  EXPECT_THAT(load_error("d.jsonl", "{\n" + std::string(kChat) + "\n{\n"),
              StartsWith("d.jsonl: 2 bad rows of 3: d.jsonl:1: malformed"));
  // An array that breaks off has its own error, with the rows before it.
  EXPECT_THAT(load_error("e.json", R"([{"messages":[]}, )" + std::string(kChat)),
              AllOf(StartsWith("e.json:1: the array is not closed; before it 1 bad row of 1: e.json:1: no messages")));
}

TEST_F(DatasetTest, BadRowsMayBeLeftOut) {
  config_.on_bad_rows = OnBadRows::kSkip;
  const std::string chat = std::string(kChat) + "\n";
  testing::internal::CaptureStderr();
  const Dataset dataset =
      load(write("a.jsonl", "{\n" + chat + R"({"messages":[{"role":"human","content":"x"}]})" + "\n" + chat));
  EXPECT_EQ(dataset.samples.size(), 2u);
  EXPECT_EQ(dataset.skipped, 2);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("moraine: warning: "), HasSubstr("2 bad rows of 4: a.jsonl:1: malformed JSON"),
                    HasSubstr("; a.jsonl:3: messages[0]: unknown role 'human'"),
                    HasSubstr("(left out: data.on_bad_rows is skip)\n")));
  EXPECT_THAT(load_error("b.jsonl", "{\n[]\n"), StartsWith("b.jsonl:1: malformed JSON"));  // of no known format
  EXPECT_THAT(load_error("c.jsonl", "{\"messages\":[]}\n{\n"),
              StartsWith("c.jsonl: every row is bad: 2 bad rows of 2: c.jsonl:1: "));
  EXPECT_THAT(load_error("d.json", "[" + std::string(kChat)), StartsWith("d.json:1: the array is not closed"));
  // Rows of ready tokens too.
  const Dataset tokens = load(write_tokens("e.safetensors", {3, 2}, {1, 2, 3, 999999, 5, 6}));
  EXPECT_EQ(tokens.samples.size(), 2u);
  EXPECT_EQ(tokens.skipped, 1);
  config_.max_length = 1;
  EXPECT_THAT(error_of([&] { load(write("f.jsonl", chat + chat)); }),
              HasSubstr("f.jsonl: every row is bad: 2 bad rows of 2: f.jsonl:1: "));
}

// A row on which the template spends all that it may is a bad row; the sixteenth of them ends the file.
TEST_F(DatasetTest, RowsThatSpendTheirBudgetDoNotStopTheFile) {
  const std::string source =
      write("t.jinja",
            "{% for m in messages %}{% if m.content == 'long' %}{{ messages * 9999999 }}{% endif %}"
            "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  chat_ = make_chat_template(source, Json::object(), folder_);
  const std::string good = std::string(kChat) + "\n";
  const std::string bad = R"({"messages":[{"role":"user","content":"long"},{"role":"assistant","content":"a"}]})"
                          "\n";
  const std::string mixed = good + bad + good + bad + good;
  EXPECT_THAT(load_error("a.jsonl", mixed),
              AllOf(StartsWith("a.jsonl: 2 bad rows of 5: a.jsonl:2: "), HasSubstr("message 0: "),
                    HasSubstr("makes too much text; a.jsonl:4: "),
                    EndsWith("(mend them; or leave them out with data.on_bad_rows: skip)")));
  EXPECT_THAT(load_error("b.jsonl", good + bad), AllOf(StartsWith("b.jsonl:2: "), HasSubstr("makes too much text")));
  config_.on_bad_rows = OnBadRows::kSkip;
  for (const Turns turns : {Turns::kTogether, Turns::kEach}) {
    config_.turns = turns;
    const Dataset dataset = load(write("c.jsonl", mixed));
    EXPECT_EQ(dataset.samples.size(), 3u);
    EXPECT_EQ(dataset.skipped, 2);
  }
  std::string many = mixed;
  for (int i = 0; i < 20; ++i) many += bad;
  for (const char* threads : {"1", "4"}) {
    setenv("OMP_NUM_THREADS", threads, 1);
    EXPECT_THAT(load_error("d.jsonl", many),
                AllOf(StartsWith("d.jsonl:19: "),
                      HasSubstr("; this is row 16 of the file on which the template spends all that it may; before it "
                                "15 bad rows of 18: d.jsonl:2: ")));
  }
  unsetenv("OMP_NUM_THREADS");
}

TEST_F(DatasetTest, NumbersThatAreNotFiniteAreRefusedWhereTheyAreUsed) {
  EXPECT_EQ(only_text("a.jsonl", R"({"score": NaN, )" + std::string(kChat).substr(1)), kChatText);
  EXPECT_THAT(load_error("b.jsonl", R"({"messages":[{"role":"user","content":NaN}]})"),
              HasSubstr("messages[0]: content is of type number"));
  EXPECT_THAT(load_error("c.jsonl", R"({"text": Infinity})"), HasSubstr("no text 'text'"));
  EXPECT_THAT(load_error("d.jsonl", R"({"messages":[{"role":"assistant","content":"a","weight":NaN}]})"),
              HasSubstr("'weight' is not 0 or 1"));
  // A template prints them in a tool as Python does.
  EXPECT_THAT(only_text("e.jsonl", R"({"tools":[{"default":NaN,"most":-Infinity}],)" + std::string(kChat).substr(1)),
              HasSubstr(R"({"default": NaN, "most": -Infinity})"));
}

TEST_F(DatasetTest, PromptsAndCompletions) {
  const auto trained_text = [&](const std::string& row) {
    const Dataset dataset = load(write("a.jsonl", row));
    std::vector<int64_t> trained;
    for (int64_t label : dataset.samples.at(0).labels) {
      if (label != -100) trained.push_back(label);
    }
    return qwen3_tokenizer().decode(trained);
  };
  const std::string text = R"({"prompt":"The sky is","completion":" blue."})";
  const std::string chat = R"({"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":1},)"
                           R"({"role":"user","content":"c"}],"completion":[{"role":"assistant","content":"d"}]})";
  EXPECT_EQ(only_text("a.jsonl", text), "The sky is blue.<|endoftext|>");
  EXPECT_EQ(trained_text(text), " blue.<|endoftext|>");
  EXPECT_THAT(only_text("a.jsonl", chat), AllOf(HasSubstr("user\na<|im_end|>"), HasSubstr("assistant\nb<|im_end|>"),
                                                EndsWith("assistant\nd<|im_end|>\n")));
  EXPECT_EQ(trained_text(chat), "d<|im_end|>\n");
  config_.format = DataFormatChoice::kPromptCompletion;
  EXPECT_EQ(trained_text(chat), "d<|im_end|>\n");
  config_.loss_on = LossOn::kAll;
  EXPECT_EQ(trained_text(text), "The sky is blue.<|endoftext|>");
  EXPECT_THAT(trained_text(chat), StartsWith("<|im_start|>user\na"));
  EXPECT_THAT(load_error("b.jsonl", kChat), StartsWith("b.jsonl:1: no 'prompt' and 'completion'"));
  EXPECT_THAT(load_error("c.jsonl", text + "\n" + chat),
              StartsWith("c.jsonl:2: 'prompt' is a list of messages, in other rows of the file it is text"));
  EXPECT_THAT(load_error("d.jsonl", chat + "\n" + text), StartsWith("d.jsonl:2: 'prompt' is not a list of messages"));
  EXPECT_THAT(load_error("e.jsonl", R"({"prompt":"a","completion":""})"),
              StartsWith("e.jsonl:1: the completion is empty"));
}

// What other trainers read beside the messages must not be passed over.
TEST_F(DatasetTest, KeysOfARowThatChangeItsTextAreRefused) {
  const std::string rest = std::string(kChat).substr(1);
  EXPECT_THAT(load_error("a.jsonl", R"({"chat_template_kwargs":{"enable_thinking":false},)" + rest),
              StartsWith("a.jsonl:1: 'chat_template_kwargs' of a row is not read (data.template_options"));
  EXPECT_THAT(load_error("b.jsonl", R"({"system":"S",)" + rest),
              StartsWith("b.jsonl:1: 'system' beside messages is not read (make it"));
  EXPECT_EQ(only_text("c.jsonl", R"({"system":"","chat_template_kwargs":{},)" + rest), kChatText);
}

TEST_F(DatasetTest, FoldersPatternsAndCompressedFiles) {
  const fs::path parts = folder_ / "parts";
  fs::create_directories(parts / "folder.jsonl");
  for (const char* name :
       {"parts/b.jsonl", "parts/a.json", "parts/c.jsonl.gz", "parts/notes.md", "parts/.hidden.jsonl", "x[1].jsonl"})
    write(name, kChat);
  const auto names = [&](const std::vector<std::string>& wanted) {
    std::vector<std::string> found;
    for (const std::string& name : wanted) found.push_back(folder_ / name);
    found = find_data_files(found);
    for (std::string& file : found) file.erase(0, folder_.string().size() + 1);
    return found;
  };
  EXPECT_THAT(names({"parts"}), ElementsAre("parts/a.json", "parts/b.jsonl", "parts/c.jsonl.gz"));
  EXPECT_THAT(names({"parts/*.jsonl", "x[1].jsonl"}), ElementsAre("parts/b.jsonl", "x[1].jsonl"));
  EXPECT_THAT(names({"parts/[ab].*"}), ElementsAre("parts/a.json", "parts/b.jsonl"));
  EXPECT_THAT(names({"none.jsonl"}), ElementsAre("none.jsonl"));
  testing::internal::CaptureStderr();
  EXPECT_THAT(names({"parts/[ab].*", "parts/b.jsonl"}), ElementsAre("parts/a.json", "parts/b.jsonl", "parts/b.jsonl"));
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("parts/b.jsonl: is named twice, and its rows count twice"));
  EXPECT_EQ(error_of([&] { names({"parts/*.csv"}); }), "parts/*.csv: the pattern matches no file");
  EXPECT_THAT(error_of([&] { names({"parts/folder.jsonl"}); }),
              HasSubstr("a folder without .jsonl or .json files (name the files"));

  const std::string packed = write("d.jsonl.gz", "");
  gzFile file = gzopen(packed.c_str(), "wb");
  const std::string text = "\xef\xbb\xbf" + std::string(kChat) + "\r\n\n" + std::string(200000, ' ') + kChat;
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  EXPECT_EQ(load(packed).samples.size(), 2u);
  fs::resize_file(packed, fs::file_size(packed) - 9);
  EXPECT_EQ(error_of([&] { load(packed); }),
            "d.jsonl.gz: the compressed data are cut short (download or compress the file again)");
  EXPECT_THAT(load_error("f.txt.gz", "text"), StartsWith("f.txt.gz: a compressed document is not read"));
  EXPECT_THAT(load_error("g.csv.gz", "a,b"), StartsWith("g.csv.gz: .csv files are not read"));
}

TEST_F(DatasetTest, AFormatWhoseTurnsAreNoTokensIsRefused) {
  chat_ = make_chat_template("deepseek_v4", Json::object(), folder_);
  EXPECT_THAT(load_error("a.jsonl", kChat), HasSubstr("tokenizer.json: <｜begin▁of▁sentence｜> is"));
  EXPECT_THAT(load_error("a.jsonl", kChat), HasSubstr("the chat format deepseek_v4 needs it to be one"));
}

TEST_F(DatasetTest, RowsStayInOrder) {
  std::string text;
  for (int i = 0; i < 2500; ++i) text += "{\"text\":\"number " + std::to_string(i) + "\"}\n";
  const Dataset dataset = load(write("a.jsonl", text));
  ASSERT_EQ(dataset.samples.size(), 2500u);
  for (int i = 0; i < 2500; ++i) {
    EXPECT_EQ(qwen3_tokenizer().decode(dataset.samples[i].input_ids), "number " + std::to_string(i) + "<|endoftext|>");
  }
}

TEST_F(DatasetTest, AChatMayEndWithoutAnAnswer) {
  EXPECT_EQ(load(write("a.jsonl", R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},)"
                                  R"({"role":"user","content":"c"}]})"))
                .samples.size(),
            1u);
}

TEST_F(DatasetTest, Truncation) {
  const std::string file = write("a.jsonl", kChat);
  const Sample whole = load(file).samples[0];
  const int64_t length = static_cast<int64_t>(whole.input_ids.size());

  config_.max_length = length;
  EXPECT_EQ(load(file).truncated, 0);

  config_.max_length = length - 1;
  EXPECT_THAT(error_of([&] { load(file); }),
              StartsWith("a.jsonl:1: " + std::to_string(length) + " tokens, more than data.max_length " +
                         std::to_string(length - 1)));

  config_.truncation = Truncation::kRight;
  Dataset dataset = load(file);
  EXPECT_EQ(dataset.truncated, 1);
  EXPECT_EQ(dataset.samples[0].input_ids, std::vector<int64_t>(whole.input_ids.begin(), whole.input_ids.end() - 1));
  EXPECT_EQ(dataset.samples[0].labels, std::vector<int64_t>(whole.labels.begin(), whole.labels.end() - 1));

  config_.truncation = Truncation::kLeft;
  dataset = load(file);
  EXPECT_EQ(dataset.truncated, 1);
  EXPECT_EQ(dataset.samples[0].input_ids, std::vector<int64_t>(whole.input_ids.begin() + 1, whole.input_ids.end()));
  EXPECT_EQ(dataset.samples[0].position_ids,
            std::vector<int64_t>(whole.position_ids.begin(), whole.position_ids.end() - 1));

  config_.truncation = Truncation::kDrop;
  EXPECT_THAT(error_of([&] { load(file); }), HasSubstr("all 1 rows are longer"));
  dataset = load(write("b.jsonl", std::string(kChat) + "\n" + R"({"messages":[{"role":"assistant","content":"x"}]})"));
  EXPECT_EQ(dataset.samples.size(), 1u);
  EXPECT_EQ(dataset.dropped, 1);

  config_.truncation = Truncation::kRight;
  config_.max_length = 3;
  EXPECT_THAT(load_error("a.jsonl", kChat), StartsWith("a.jsonl:1: no trained token is left after truncation"));
}

TEST_F(DatasetTest, VariablesFillPlaceholders) {
  config_.variables = {{"NAME", "Moraine"}, {"author", "{{NAME}}"}, {"N", 3}};
  const auto answer = [&](const std::string& content) {
    OrderedJson row = {{"messages", OrderedJson::array({{{"role", "assistant"}, {"content", content}}})}};
    std::string text = only_text("a.jsonl", row.dump());
    const std::string begin = "<|im_start|>assistant\n", end = "<|im_end|>\n";
    return text.substr(begin.size(), text.size() - begin.size() - end.size());
  };
  EXPECT_EQ(answer("I am {{NAME}}, {{NAME}}!"), "I am Moraine, Moraine!");
  EXPECT_EQ(answer("by {{author}} {{N}} times"), "by {{NAME}} 3 times");
  EXPECT_EQ(answer("{{ x }} {{name}} {{A}} {{}} {{ {{NAME}} {{{NAME}}} }}"),
            "{{ x }} {{name}} {{A}} {{}} {{ Moraine {Moraine} }}");
  EXPECT_EQ(
      load_error("b.jsonl",
                 R"({"messages":[{"role":"user","content":[{"type":"text","text":"{{NAME}} {{AUTHOR_2}}"}]}]})"),
      "b.jsonl:1: no value for the placeholder {{AUTHOR_2}} (data.variables.AUTHOR_2=…; '{{AUTHOR_2}}' itself keeps it "
      "as it is)");
  OrderedJson messages = OrderedJson::parse(R"([{"role":"user","content":[
      {"type":"tool_result","content":"by {{NAME}}"},
      {"type":"tool_result","content":[{"type":"text","text":"of {{NAME}}"}]}]}])");
  fill_variables(messages, {{"NAME", "Moraine"}});
  EXPECT_EQ(messages[0]["content"][0]["content"], "by Moraine");
  EXPECT_EQ(messages[0]["content"][1]["content"][0]["text"], "of Moraine");
  config_.variables = {{"NAME", Json::array()}};
  EXPECT_EQ(load_error("c.jsonl", kChat), "data.variables.NAME: not text");
}

TEST_F(DatasetTest, TokensOutsideTheVocabularyAreNamed) {
  const std::string file = write("a.jsonl", kChat);
  EXPECT_THAT(error_of([&] { load(file, 151000); }),
              StartsWith("a.jsonl:1: token id 151644 ('<|im_start|>') is outside the model's vocabulary of 151000"));
}

TEST_F(DatasetTest, LossOn) {
  const std::string file = write("a.jsonl", kChat);
  config_.loss_on = LossOn::kAll;
  const Sample sample = load(file).samples[0];
  EXPECT_EQ(sample.labels, sample.input_ids);
}

TEST_F(DatasetTest, TokensNeedNoTokenizer) {
  const std::string file = write_tokens("a.safetensors", {2, 3}, {1, 2, 3, 4, 5, 6}, {}, {-100, 2, 3, -100, -100, 6});
  const Dataset dataset = load_dataset({file}, config_, nullptr, nullptr, 10);
  ASSERT_EQ(dataset.samples.size(), 2u);
  EXPECT_THAT(dataset.samples[0].input_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(dataset.samples[0].labels, ElementsAre(-100, 2, 3));
  EXPECT_THAT(dataset.samples[1].labels, ElementsAre(-100, -100, 6));
  EXPECT_THAT(dataset.samples[1].position_ids, ElementsAre(0, 1, 2));
  EXPECT_THAT(error_of([&] { load_dataset({write("b.jsonl", kChat)}, config_, nullptr, nullptr, 10); }),
              StartsWith("b.jsonl: needs a tokenizer"));
}

TEST_F(DatasetTest, WithoutLabelsEveryTokenIsTrained) {
  const TokensFile file = read_tokens_file(write_tokens("a.safetensors", {1, 3}, {1, 2, 3}), 10);
  EXPECT_EQ(file.rows, 1);
  EXPECT_EQ(file.columns, 3);
  EXPECT_THAT(file.samples[0].labels, ElementsAre(1, 2, 3));
}

TEST_F(DatasetTest, MaskedPositionsAreLeftOut) {
  const TokensFile file = read_tokens_file(
      write_tokens("a.safetensors", {4, 4}, {1, 2, 3, -7, -7, 1, 2, 3, 1, 99, 2, 3, 0, 0, 0, 0},
                   {1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0}, {1, 2, 3, 99, 1, 1, 2, 3, 1, 2, 2, 3, 0, 0, 0, 0}),
      10);
  ASSERT_EQ(file.samples.size(), 4u);
  EXPECT_THAT(file.samples[0].input_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(file.samples[0].labels, ElementsAre(1, 2, 3));
  EXPECT_THAT(file.samples[1].input_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(file.samples[1].position_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(file.samples[2].position_ids, ElementsAre(0, 2, 3));
  EXPECT_THAT(file.samples[2].labels, ElementsAre(1, -100, 3)) << "what would be predicted from padding";
  EXPECT_THAT(file.samples[3].input_ids, ElementsAre());
}

TEST_F(DatasetTest, BadTokensFiles) {
  const auto error = [&](const std::string& file) { return error_of([&] { read_tokens_file(file, 10); }); };
  EXPECT_EQ(error(write_tokens("a.safetensors", {2, 2}, {1, 2, 3, 10})),
            "a.safetensors: input_ids: row 1, column 1 holds 10, outside the vocabulary of 10");
  EXPECT_THAT(error(write_tokens("b.safetensors", {1, 2}, {-1, 2})), HasSubstr("row 0, column 0 holds -1"));
  EXPECT_THAT(error(write_tokens("c.safetensors", {1, 2}, {1, 2}, {}, {1, 10})),
              HasSubstr("labels: row 0, column 1 holds 10, neither -100 nor in the vocabulary of 10"));
  EXPECT_THAT(error(write_tokens("d.safetensors", {1, 2}, {1, 2}, {}, {1, -1})), HasSubstr("holds -1, neither"));
  EXPECT_THAT(error(write_tokens("e.safetensors", {1, 2}, {1, 2}, {1, 2})),
              HasSubstr("attention_mask: row 0, column 1"));
  EXPECT_THAT(error(write_tokens("f.safetensors", {2}, {1, 2})),
              HasSubstr("f.safetensors: input_ids: has 1 dims, not 2"));
  EXPECT_THAT(error(write_tokens("g.safetensors", {0, 2}, {})), HasSubstr("holds no tokens"));

  const std::vector<int64_t> ids{1, 2}, labels{1, 2, 3};
  const std::vector<float> floats{1, 2};
  const auto write_two = [&](const std::string& name, SafetensorsTensor one, SafetensorsTensor two) {
    write_safetensors(folder_ / name, {one, two});
    return (folder_ / name).string();
  };
  const SafetensorsTensor good{"input_ids", DType::kI64, {1, 2}, std::as_bytes(std::span(ids))};
  EXPECT_THAT(
      error(write_two("h.safetensors", good, {"labels", DType::kI64, {1, 3}, std::as_bytes(std::span(labels))})),
      HasSubstr("labels: is [1, 3], but input_ids is [1, 2]"));
  EXPECT_THAT(
      error(write_two("i.safetensors", good, {"labels", DType::kF32, {1, 2}, std::as_bytes(std::span(floats))})),
      HasSubstr("labels: is of dtype F32"));
  EXPECT_THAT(error(write_two("j.safetensors", {"other", DType::kI64, {1, 2}, std::as_bytes(std::span(ids))},
                              {"labels", DType::kI64, {1, 2}, std::as_bytes(std::span(ids))})),
              HasSubstr("j.safetensors: no tensor input_ids"));
  EXPECT_THAT(
      error(write_two("k.safetensors", good, {"position_ids", DType::kI64, {1, 2}, std::as_bytes(std::span(ids))})),
      HasSubstr("position_ids is not supported"));
  EXPECT_THAT(error((folder_ / "none.safetensors").string()), StartsWith("none.safetensors: "));
}

TEST_F(DatasetTest, RowsOfTokensThatTrainNothingAreRefused) {
  const std::string file = write_tokens("a.safetensors", {2, 2}, {1, 2, 3, 4}, {}, {-100, 2, 3, -100});
  EXPECT_THAT(error_of([&] { load_dataset({file}, config_, nullptr, nullptr, 10); }),
              StartsWith("a.safetensors: row 1: the row has no trained token"));
}

TEST_F(DatasetTest, MaxLengthHoldsForTokensToo) {
  config_.max_length = 2;
  const std::string file = write_tokens("a.safetensors", {1, 3}, {1, 2, 3});
  EXPECT_THAT(error_of([&] { load_dataset({file}, config_, nullptr, nullptr, 10); }),
              StartsWith("a.safetensors: row 0: 3 tokens, more than data.max_length 2"));
  config_.truncation = Truncation::kLeft;
  const Dataset dataset = load_dataset({file}, config_, nullptr, nullptr, 10);
  EXPECT_THAT(dataset.samples[0].input_ids, ElementsAre(2, 3));
  EXPECT_THAT(dataset.samples[0].position_ids, ElementsAre(0, 1));
}

}  // namespace
}  // namespace moraine
