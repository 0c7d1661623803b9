// The commands on good input.
#include <gmock/gmock.h>

#include <cmath>

#include "base/file.h"
#include "checkpoint/random_checkpoint.h"
#include "cli/checkpoints.h"
#include "cli/run_moraine.h"
#include "formats/checkpoint_index.h"
#include "golden.h"
#include "text/rows/data_files.h"
#include "text/rows/dataset.h"
#include "text/rows/row_reader.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// The JSON object that a command prints alone.
Json json_of(const std::vector<std::string>& args) {
  const Ended ended = run_moraine(args);
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  return parse_json(ended.out, "stdout");
}

TEST(Score, EqualsTheGoldens) {
  const fs::path golden = golden_folder("qwen3_moe-fp32");
  TempFolder folder;
  const std::vector<std::string> base{"score", "--model", golden / "model", "--tokens", golden / "batch.safetensors"};
  std::vector<std::string> plain = base;
  plain.insert(plain.end(), {"--json", "--out", folder / "out.safetensors", "--logits"});
  const Json result = json_of(plain);
  const double loss = golden_tensor(golden / "forward.safetensors", "loss").item<float>();
  EXPECT_NEAR(result["loss"].get<double>(), loss, 1e-5);
  EXPECT_EQ(golden_tensor(folder / "out.safetensors", "loss").dim(), 0);
  EXPECT_NEAR(golden_tensor(folder / "out.safetensors", "loss").item<float>(), loss, 1e-5);
  const at::Tensor token_loss = golden_tensor(folder / "out.safetensors", "token_loss");
  EXPECT_NEAR(token_loss.sum().item<double>() / result["tokens"].get<int64_t>(), loss, 1e-5);
  const at::Tensor logits = golden_tensor(golden / "forward.safetensors", "logits");
  EXPECT_EQ(golden_tensor(folder / "out.safetensors", "logits").sizes(), logits.sizes());
  EXPECT_EQ(token_loss.size(1), logits.size(1) - 1);

  std::vector<std::string> adapted = base;
  adapted.insert(adapted.end(),
                 {"--json", "--adapter", golden / "lora" / "adapter", "--grads", folder / "g.safetensors"});
  EXPECT_NEAR(json_of(adapted)["loss"].get<double>(),
              golden_tensor(golden / "lora" / "forward.safetensors", "loss").item<float>(), 1e-5);
  const SafetensorsHeader expected = read_safetensors_header(golden / "lora" / "grads.safetensors");
  for (const SafetensorsEntry& entry : expected.entries)
    EXPECT_LT(relative_error(golden_tensor(folder / "g.safetensors", entry.name), read_tensor(expected, entry)), 1e-4);

  const Ended words = run_moraine(base);
  EXPECT_EQ(words.exit_code, 0);
  EXPECT_THAT(words.out, HasSubstr("loss"));
  EXPECT_THAT(words.out, HasSubstr("tokens"));
}

// config.json ties the head, but another one is stored: every command takes the stored one, with one warning.
TEST(TiedHead, AStoredOneIsUsed) {
  TempFolder folder;
  const fs::path golden = golden_folder("qwen3_moe-fp32"), model = copy_golden_model(folder);
  Json config = read_json_file(model / "config.json");
  config["tie_word_embeddings"] = true;
  write_file_atomic(model / "config.json", config.dump());
  const Ended scored = run_moraine({"score", "--model", model, "--tokens", golden / "batch.safetensors", "--json"});
  ASSERT_EQ(scored.exit_code, 0) << scored.err;
  EXPECT_NEAR(parse_json(scored.out, "stdout")["loss"].get<double>(),
              golden_tensor(golden / "forward.safetensors", "loss").item<float>(), 1e-5);
  const Ended inspected = run_moraine({"inspect", model, "--json"});
  EXPECT_EQ(parse_json(inspected.out, "stdout")["skipped"], Json::object());
  const fs::path recipe = folder.write("recipe.json", Json{{"model", {{"path", model}}}}.dump());
  const Ended planned = run_moraine({"plan", recipe, "--json"});
  EXPECT_EQ(planned.exit_code, 0) << planned.err;
  for (const Ended* ended : {&scored, &inspected, &planned}) {
    EXPECT_THAT(ended->err,
                HasSubstr("moraine: warning: " + (model / "config.json").string() + ": tie_word_embeddings is true"));
    EXPECT_EQ(std::count(ended->err.begin(), ended->err.end(), '\n'), 1) << ended->err;
  }
}

TEST(Inspect, Checkpoint) {
  const fs::path model = golden_folder("qwen3_moe-fp32") / "model";
  const Json facts = json_of({"inspect", model, "--json"});
  EXPECT_EQ(facts["kind"], "model");
  EXPECT_EQ(facts["architecture"], "Qwen3MoeForCausalLM");
  EXPECT_EQ(facts["files"], 6);
  uint64_t parameters = 0;
  for (const auto& [name, tensor] : read_checkpoint_index(model).tensors) parameters += tensor.entry.nbytes / 4;
  EXPECT_EQ(facts["parameters"], parameters);
  EXPECT_LT(facts["active_parameters"], facts["parameters"]);
  EXPECT_TRUE(facts["template"].is_null());
  EXPECT_THAT(run_moraine({"inspect", model}).out, HasSubstr("Qwen3MoeForCausalLM"));
}

TEST(Inspect, Adapter) {
  const fs::path adapter = golden_folder("qwen3_moe-fp32") / "lora" / "adapter";
  const Json facts = json_of({"inspect", "--json", adapter});
  EXPECT_EQ(facts["kind"], "adapter");
  EXPECT_EQ(facts["r"], 4);
  EXPECT_EQ(facts["lora_alpha"], 8);
  EXPECT_EQ(facts["lora_b_zero"], 0);
  EXPECT_GT(facts["lora_b_tensors"], 0);

  TempFolder folder;
  fs::copy(adapter / "adapter_config.json", folder / "adapter_config.json");
  write_tensors(folder / "adapter_model.safetensors",
                {{"x.lora_A.weight", at::ones({4, 8})}, {"x.lora_B.weight", at::zeros({8, 4})}});
  EXPECT_THAT(run_moraine({"inspect", folder.path()}).out, HasSubstr("changes nothing"));
}

TEST(Init, ThenInspectThenScore) {
  TempFolder folder;
  const fs::path config = folder.write("config.json", tiny_config().dump()), out = folder / "deep" / "random";
  const Ended init = run_moraine({"init", "--config", config, "--out", out, "--dtype", "float32", "--seed", "7"});
  ASSERT_EQ(init.exit_code, 0) << init.err;
  EXPECT_THAT(names_in(folder / "deep"), testing::ElementsAre("random"));
  EXPECT_THAT(names_in(out), testing::ElementsAre("config.json", "model.safetensors"));
  EXPECT_EQ(read_json_file(out / "config.json")["torch_dtype"], "float32");

  const Json facts = json_of({"inspect", out, "--json"});
  EXPECT_EQ(facts["moe_layers"], 1);
  EXPECT_EQ(facts["stored_dtypes"]["F32"]["tensors"], facts["tensors"]);

  const at::Tensor embedding = golden_tensor(out / "model.safetensors", "model.embed_tokens.weight");
  EXPECT_NEAR(embedding.std().item<double>(), 0.5, 0.03);
  EXPECT_NEAR(embedding.mean().item<double>(), 0, 0.03);
  EXPECT_TRUE(at::equal(golden_tensor(out / "model.safetensors", "model.norm.weight"), at::ones({32})));

  const fs::path tokens = write_tokens(folder, "tokens.safetensors", {3, 1, 4, 1, 5, 9, 2, 6});
  const Json scored = json_of({"score", "--model", out, "--tokens", tokens, "--json"});
  EXPECT_EQ(scored["tokens"], 7);
  EXPECT_GT(scored["loss"].get<double>(), 0);

  // Same seed, same bytes; an empty folder is taken; another seed, other bytes.
  fs::create_directory(folder / "again");
  ASSERT_EQ(run_moraine({"init", "--config", config, "--out", folder / "again", "--dtype", "float32", "--seed", "7"})
                .exit_code,
            0);
  ASSERT_EQ(run_moraine({"init", "--config", config, "--out", folder / "other", "--dtype", "float32", "--seed", "8"})
                .exit_code,
            0);
  const auto bytes = [](const fs::path& model) { return read_text_file(model / "model.safetensors"); };
  EXPECT_EQ(bytes(out), bytes(folder / "again"));
  EXPECT_NE(bytes(out), bytes(folder / "other"));
}

TEST(Init, SplitsIntoFiles) {
  TempFolder folder;
  const fs::path config = folder.write("config.json", tiny_config().dump());
  const RandomCheckpoint one = write_random_checkpoint(config, folder / "one", {.dtype = "", .seed = 1});
  const RandomCheckpoint many =
      write_random_checkpoint(config, folder / "many", {.dtype = "", .seed = 1, .max_file_bytes = 8192});
  EXPECT_EQ(one.files, 1u);
  EXPECT_GT(many.files, 3u);
  EXPECT_EQ(one.dtype, "bfloat16");
  const CheckpointIndex a = read_checkpoint_index(folder / "one"), b = read_checkpoint_index(folder / "many");
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    const CheckpointTensor* other = b.find(name);
    ASSERT_NE(other, nullptr) << name;
    EXPECT_TRUE(
        at::equal(read_tensor(a.files[tensor.file], tensor.entry), read_tensor(b.files[other->file], other->entry)));
  }
  EXPECT_EQ(run_moraine({"inspect", folder / "many"}).exit_code, 0);
}

TEST(Tokenize, TextsEqualTheGoldens) {
  const fs::path model = golden_folder("tokenizers") / "qwen3";
  const fs::path expected = model / "encode.jsonl";
  const Ended ended = run_moraine({"tokenize", "--model", model, "--texts", expected, "--json"});
  ASSERT_EQ(ended.exit_code, 0) << ended.err;
  TempFolder folder;
  RowReader wanted(expected), got(folder.write("out.jsonl", ended.out));
  int64_t rows = 0;
  for (JsonRow want, have; wanted.next(want); ++rows) {
    ASSERT_TRUE(got.next(have));
    const Json want_json = parse_json(want.text, "golden"), have_json = parse_json(have.text, "stdout");
    EXPECT_EQ(have_json["ids"], want_json["ids"]);
    EXPECT_EQ(have_json["text"], want_json["text"]);
    EXPECT_FALSE(have_json.contains("loss_mask"));
  }
  EXPECT_GT(rows, 10);
}

TEST(Tokenize, MessagesEqualTheGoldens) {
  const fs::path model = golden_folder("tokenizers") / "qwen3", chats = golden_folder("templates") / "qwen3.jsonl";
  const Ended ended = run_moraine({"tokenize", "--model", model, "--messages", chats, "--template", "qwen3", "--json",
                                   "data.allow_special_in_content=true"});  // as transformers reads them
  ASSERT_EQ(ended.exit_code, 0) << ended.err;
  TempFolder folder;
  RowReader wanted(chats), got(folder.write("out.jsonl", ended.out));
  for (JsonRow want, have; wanted.next(want);) {
    ASSERT_TRUE(got.next(have));
    const Json want_json = parse_json(want.text, "golden"), have_json = parse_json(have.text, "stdout");
    EXPECT_EQ(have_json["text"], want_json["training_text"]);
    EXPECT_EQ(have_json["ids"], want_json["training_ids"]);
    EXPECT_EQ(have_json["loss_mask"], want_json["loss_mask"]);
    EXPECT_EQ(have_json["generation_prompt"], want_json["generation_prompt"]);
  }
}

TEST(Tokenize, MarksTrainedSpansOffATerminal) {
  const fs::path model = golden_folder("tokenizers") / "qwen3";
  TempFolder folder;
  const fs::path chats = folder.write(
      "c.jsonl",
      R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello \u001b[31m!"}]})");
  const Ended ended =
      run_moraine({"tokenize", "--model", model, "--messages", chats, "--template", "qwen3_instruct_2507"});
  ASSERT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ended.out, HasSubstr("⟦Hello \\x1b[31m!<|im_end|>"));
  EXPECT_THAT(ended.out, HasSubstr("trained"));
  EXPECT_THAT(ended.out, HasSubstr("\n1 rows, 1 assistant turns, "));
  EXPECT_EQ(ended.out.find('\x1b'), std::string::npos);
}

// The preview is training's own reading, of every format and with its keys.
TEST(Tokenize, ShowsWhatTrainingMakesOfEveryFormat) {
  const fs::path model = golden_folder("tokenizers") / "qwen3";
  TempFolder folder;
  fs::create_directory(folder / "rows");
  const char* files[][2] = {
      {"a.jsonl",
       R"({"messages": [{"role": "user", "content": "I am {{NAME}}"}, {"role": "assistant", "content": "Hello {{NAME}}!"},
                      {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]})"},
      {"b.jsonl",
       R"({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}, {"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]})"},
      {"c.json", R"([{"instruction": "a", "input": "b", "output": "c"}, {"instruction": 7}])"},
      {"d.jsonl",
       R"({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]})"},
      {"e.jsonl", R"({"prompt": "The sky", "completion": " is blue", "score": NaN})"},
      {"f.jsonl", R"({"text": "A text that is cut because it is long"})"}};
  for (const auto& [name, text] : files) {
    std::string line = text;
    std::erase(line, '\n');
    folder.write(std::string("rows/") + name, line);
  }
  const std::vector<std::string> keys{"data.variables={NAME: Ada}", "data.loss_on=last", "data.on_bad_rows=skip",
                                      "data.truncation=left", "data.max_length=23"};
  std::vector<std::string> args{
      "tokenize", "--model", model, "--messages", folder / "rows", "--template", "qwen3_instruct_2507", "--json"};
  args.insert(args.end(), keys.begin(), keys.end());
  const Ended ended = run_moraine(args);
  ASSERT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ended.err, HasSubstr("c.json: 1 bad row of 2: c.json:1: 'instruction' is not text"));

  DataConfig config = recipe_from_overrides(keys).data;
  const Tokenizer tokenizer = Tokenizer::from_folder(model);
  const auto chat = make_chat_template("qwen3_instruct_2507", Json::object(), model);
  const Dataset trained =
      load_dataset(find_data_files({folder / "rows"}), config, &tokenizer, chat.get(), tokenizer.vocab_size());
  RowReader shown(folder.write("out.jsonl", ended.out));
  JsonRow row;
  for (const Sample& sample : trained.samples) {
    ASSERT_TRUE(shown.next(row));
    const Json json = parse_json(row.text, "stdout");
    EXPECT_EQ(json["ids"].get<std::vector<int64_t>>(), sample.input_ids);
    std::vector<int> mask;
    for (int64_t label : sample.labels) mask.push_back(label >= 0);
    EXPECT_EQ(json["loss_mask"].get<std::vector<int>>(), mask);
    EXPECT_EQ(json.value("fate", ""), sample.input_ids.size() == 23 ? "truncated" : "");
  }
  EXPECT_EQ(trained.samples.size(), 6u);
  EXPECT_FALSE(shown.next(row));
}

TEST(Generate, AnswersWithTheDictionaryModel) {
  const fs::path model = fs::path(MORAINE_TESTS_DIR).parent_path() / "examples" / "dictionary_model";
  const std::vector<std::string> args{"generate",       "--model",          model, "--prompt",
                                      "What is a dog?", "--max-new-tokens", "12"};
  std::vector<std::string> with_json = args;
  with_json.push_back("--json");
  const Json json = json_of(with_json);
  EXPECT_LE(json["ids"].size(), 12u);
  EXPECT_GT(json["prompt_tokens"], 3);
  const Ended streamed = run_moraine(args);
  EXPECT_EQ(streamed.exit_code, 0) << streamed.err;
  EXPECT_EQ(streamed.out, json["text"].get<std::string>() + "\n");

  TempFolder folder;
  const fs::path chat = folder.write("chat.json", R"({"messages": [{"role": "user", "content": "What is a dog?"}]})");
  const fs::path list = folder.write("list.json", R"([{"role": "user", "content": "What is a dog?"}])");
  for (const fs::path& file : {chat, list})
    EXPECT_EQ(json_of({"generate", "--model", model, "--chat", file, "--max-new-tokens", "12", "--json"}), json);

  std::vector<std::string> sampled = with_json;
  sampled.insert(sampled.end(), {"--temperature", "1.5", "--seed", "3"});
  EXPECT_EQ(json_of(sampled), json_of(sampled));
}

}  // namespace
}  // namespace moraine
