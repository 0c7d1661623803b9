// DeepSeek-V4's chat format through the commands: tokenize, train, generate.
#include <gmock/gmock.h>

#include "base/file.h"
#include "checkpoint/random_checkpoint.h"
#include "cli/checkpoints.h"
#include "cli/run_moraine.h"
#include "golden.h"
#include "text/rows/row_reader.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::vector<OrderedJson> rows_of(const fs::path& file) {
  std::vector<OrderedJson> rows;
  RowReader reader(file);
  for (JsonRow row; reader.next(row);) rows.push_back(parse_ordered_json(row.text, file));
  return rows;
}

// The rows that a command prints with --json.
std::vector<OrderedJson> printed(std::vector<std::string> args) {
  args.push_back("--json");
  const Ended ended = run_moraine(args);
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  TempFolder folder;
  return rows_of(folder.write("out.jsonl", ended.out));
}

TEST(DeepseekV4Chat, TokenizeMessagesEqualsTheGoldens) {
  const fs::path model = golden_folder("tokenizers") / "deepseek";
  for (const char* file : {"deepseek_v4.jsonl", "deepseek_v4_special.jsonl"}) {
    std::map<std::string, std::vector<OrderedJson>> by_options;
    for (OrderedJson& row : rows_of(golden_folder("templates") / file)) {
      OrderedJson options = row["options"];
      options["reasoning_effort_profile"] = "preview";  // the goldens' encoder
      by_options[options.dump()].push_back(std::move(row));
    }
    for (const auto& [options, rows] : by_options) {
      TempFolder folder;
      std::string lines;
      for (const OrderedJson& row : rows) lines += row.dump() + "\n";
      const auto got = printed({"tokenize", "--model", model, "--messages", folder.write("chats.jsonl", lines),
                                "--template", "deepseek_v4", "--template-options", options});
      ASSERT_EQ(got.size(), rows.size());
      for (size_t i = 0; i < rows.size(); ++i) {
        EXPECT_EQ(got[i]["text"], rows[i]["text"]);
        EXPECT_EQ(got[i]["ids"], rows[i]["ids"]);
        if (!rows[i]["loss_mask"].is_null()) {
          EXPECT_EQ(got[i]["loss_mask"], rows[i]["loss_mask"]);
        }
        EXPECT_TRUE(got[i]["text"].get<std::string>().starts_with(got[i]["generation_prompt"].get<std::string>()));
      }
    }
  }
}

TEST(DeepseekV4Chat, ParseEqualsTheGoldens) {
  const fs::path file = golden_folder("templates") / "deepseek_v4_parse.jsonl";
  const std::vector<OrderedJson> want = rows_of(file);
  const std::vector<std::string> args{"tokenize", "--parse", file, "--template", "deepseek_v4"};
  const std::vector<OrderedJson> got = printed(args);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    OrderedJson message;
    for (const auto& [key, value] : want[i]["message"].items())  // the encoder's own name of thinking is shorter
      message[key == "reasoning" ? "reasoning_content" : key] = value;
    EXPECT_EQ(got[i]["message"], message);
    EXPECT_EQ(got[i]["error"].is_null(), !want[i]["message"].is_null());
    if (got[i]["error"].is_string()) {
      EXPECT_THAT(got[i]["error"].get<std::string>(), HasSubstr(fmt::format("deepseek_v4_parse.jsonl:{}: ", i + 1)));
    }
  }
  const Ended words = run_moraine(args);
  EXPECT_EQ(words.exit_code, 0);
  EXPECT_THAT(words.out, HasSubstr("── row 3 ──\nmalformed: "));
  EXPECT_THAT(words.out, HasSubstr("\"name\": \"get_weather\""));
}

TEST(DeepseekV4Chat, ParseRefusesWrongRows) {
  TempFolder folder;
  const auto file = [&](const std::string& text) { return folder.write("rows.jsonl", text); };
  const auto expect_error = [&](const std::string& text, const std::vector<std::string>& parts) {
    expect_input_error({"tokenize", "--template", "deepseek_v4", "--json", "--parse", file(text)}, parts);
  };
  const std::string good = R"({"completion": "a<｜end▁of▁sentence｜>"})";
  expect_error(good + "\n{\"text\": \"a\"}\n", {"rows.jsonl:2", "'completion'"});
  expect_error(R"({"completion": 1})", {"rows.jsonl:1", "'completion'"});
  expect_error(R"({"completion": "a", "thinking_mode": "loud"})", {"rows.jsonl:1", "thinking_mode"});
  expect_error(good + "\n[\n", {"rows.jsonl:2"});
  expect_error("", {"no rows"});
  expect_input_error({"tokenize", "--parse", file(good)}, {"--model"});
  expect_input_error({"tokenize", "--text", "a", "--model", "m", "--syntax", "glm"}, {"--syntax", "--parse only"});
  expect_input_error({"tokenize", "--parse", file(good), "--template", "qwen3", "--syntax", "x"},
                     {"--syntax", "'x'", "hermes"});
  expect_input_error({"tokenize", "--parse", file(good), "--template", "react"}, {"--parse", "react", "deepseek_v4"});
  // Errors hold the file's name, which need not be UTF-8.
  const fs::path odd = folder.write("rows\xff.jsonl", R"({"completion": "a"})");
  EXPECT_THAT(printed({"tokenize", "--template", "deepseek_v4", "--parse", odd})[0]["error"].get<std::string>(),
              HasSubstr("rows\\xff.jsonl:1: "));
  expect_input_error(
      {"tokenize", "--parse", file(good), "--template", "deepseek_v4", "--template-options", "{\"x\": 1}"},
      {"--template-options", "thinking_mode"});
  expect_input_error({"tokenize", "--text", "x"}, {"--model"});
  // The option is the mode of rows that do not say one.
  EXPECT_EQ(printed({"tokenize", "--template", "deepseek_v4", "--parse", file(good)})[0]["message"]["content"], "a");
  EXPECT_TRUE(printed({"tokenize", "--template", "deepseek_v4", "--parse", file(good), "--template-options",
                       "{\"thinking_mode\": \"thinking\"}"})[0]["message"]
                  .is_null());
}

// A checkpoint with as many tokens as the tokenizer has, and no chat template: config.json says which format.
TEST(DeepseekV4Chat, TrainsAndGenerates) {
  TempFolder folder;
  Json config = read_json_file(golden_folder("headers") / "deepseek_v4-fp32" / "config.json");
  config["vocab_size"] = 129280;
  const fs::path model = folder / "model";
  write_random_checkpoint(folder.write("config.json", config.dump()), model, {.dtype = "", .seed = 3});
  fs::copy_file(golden_folder("tokenizers") / "deepseek" / "tokenizer.json", model / "tokenizer.json");

  std::string chats;
  std::vector<OrderedJson> rows = rows_of(golden_folder("templates") / "deepseek_v4.jsonl");
  for (size_t i : {0, 4, 9})
    chats += OrderedJson{{"messages", rows[i]["messages"]}, {"tools", rows[i]["tools"]}}.dump() + "\n";
  const fs::path data = folder.write("chats.jsonl", chats), run = folder / "run";
  const Ended train =
      run_moraine({"train", folder.write("recipe.yaml", "adapter: {r: 2}"), "model.path=" + model.string(),
                   "data.train=[" + data.string() + "]", "data.template_options={thinking_mode: thinking}",
                   "train.steps=2", "train.batch_size=3", "save.dir=" + run.string()});
  ASSERT_EQ(train.exit_code, 0) << train.err << train.out;
  const std::vector<OrderedJson> metrics = rows_of(run / "metrics.jsonl");
  ASSERT_EQ(metrics.size(), 2u);
  int64_t tokens = 0, trained = 0;
  for (const OrderedJson& row : printed({"tokenize", "--model", model, "--messages", data, "--template-options",
                                         "{\"thinking_mode\": \"thinking\"}"})) {
    tokens += static_cast<int64_t>(row["ids"].size());
    for (const OrderedJson& mask : row["loss_mask"]) trained += mask.get<int64_t>();
  }
  EXPECT_EQ(metrics[0]["tokens"], tokens);
  EXPECT_EQ(metrics[0]["trained_tokens"], trained);

  const auto generate = [&](const std::string& flag, const std::string& value) {
    return printed(
        {"generate", "--model", model, "--adapter", run / "adapter", flag, value, "--max-new-tokens", "2"})[0];
  };
  // <｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>
  EXPECT_EQ(generate("--prompt", "Hi")["prompt_tokens"], 5);
  const fs::path chat = folder.write("chat.json", R"([{"role": "user", "content": "Hi"}])");
  EXPECT_EQ(generate("--chat", chat), generate("--prompt", "Hi"));
}

}  // namespace
}  // namespace moraine
