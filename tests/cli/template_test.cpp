// A chat template that moraine has never seen, from its file to an adapter to an answer that is read back.
#include <gmock/gmock.h>

#include <filesystem>

#include "base/json.h"
#include "base/temp_folder.h"
#include "cli/run_moraine.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemplate = R"({% if tools %}<|im_start|>may call: {{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}, {{ mood | default('calm') }}:
{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant, {{ mood | default('calm') }}:
{% endif %})";
constexpr const char* kChats =
    R"({"messages": [{"role": "user", "content": "Ring!"}, {"role": "assistant", "content": "", "tool_calls":
    [{"type": "function", "function": {"name": "ring", "arguments": {"times": 3}}}]}]})";

TEST(UnseenTemplate, TrainsAndItsAnswersAreReadBack) {
  TempFolder folder;
  const fs::path model = folder / "model", run = folder / "run";
  fs::copy(fs::path(MORAINE_TESTS_DIR).parent_path() / "examples" / "dictionary_model", model);
  folder.write("model/chat_template.jinja", kTemplate);
  std::string chats = kChats;
  chats.erase(std::remove(chats.begin(), chats.end(), '\n'), chats.end());
  const std::string recipe =
      "adapter: {r: 16, lora_alpha: 32, target_modules: all-linear,\n"
      "          target_parameters: [mlp.experts.gate_up_proj, mlp.experts.down_proj]}\n";
  const Ended train = run_moraine({"train", folder.write("recipe.yaml", recipe), "model.path=" + model.string(),
                                   "data.train=[" + folder.write("chats.jsonl", chats + "\n").string() + "]",
                                   "data.template_options={mood: sure}", "train.steps=80", "train.batch_size=1",
                                   "train.learning_rate=2e-3", "train.scheduler=constant", "train.warmup_steps=0",
                                   "save.dir=" + run.string()});
  ASSERT_EQ(train.exit_code, 0) << train.err << train.out;

  const std::vector<std::string> answer{"generate", "--model",           model,       "--prompt", "Ring!",
                                        "--parse",  "--template-option", "mood=sure", "--json"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> args = answer;
    args.insert(args.end(), more.begin(), more.end());
    return args;
  };
  const Ended whole = run_moraine(with({"--adapter", run / "adapter", "--max-new-tokens", "60"}));
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  const Json json = parse_json(whole.out, "stdout");
  EXPECT_TRUE(json["error"].is_null()) << json;
  EXPECT_EQ(json["message"]["content"], "");
  EXPECT_EQ(json["message"]["tool_calls"],
            Json::parse(R"([{"type": "function", "function": {"name": "ring", "arguments": "{\"times\": 3}"}}])"));

  const Json cut = parse_json(run_moraine(with({"--adapter", run / "adapter", "--max-new-tokens", "3"})).out, "stdout");
  EXPECT_TRUE(cut["message"].is_null());
  EXPECT_THAT(cut["error"].get<std::string>(), testing::HasSubstr("cut at 3 tokens"));

  const fs::path tools = folder.write("tools.json", R"([{"type": "function", "function": {"name": "ring"}}])");
  const Json offered = parse_json(run_moraine(with({"--tools", tools, "--max-new-tokens", "1"})).out, "stdout");
  EXPECT_GT(offered["prompt_tokens"], json["prompt_tokens"]);

  expect_input_error(with({"--tools", folder.write("no.json", "{}")}), {"no.json", "is not a list of tools"});
  expect_input_error(with({"--template-option", "mood=sad"}), {"--template-option", "mood is given twice"});
  expect_input_error(with({"--template-option", "sad"}), {"--template-option", "is not NAME=VALUE"});
  expect_input_error(with({"--syntax", "xml"}), {"--syntax", "unknown syntax 'xml'", "hermes"});
  expect_input_error({"generate", "--model", model, "--prompt", "a", "--syntax", "glm"}, {"--syntax", "--parse only"});
}

}  // namespace
}  // namespace moraine
