// Files that are missing or broken: one line, exit code 2, nothing left half-written.
#include <gmock/gmock.h>

#include "base/file.h"
#include "cli/checkpoints.h"
#include "cli/run_moraine.h"
#include "formats/checkpoint_index.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

// Folders and files of one test; every failing command is also asked to write something, which must not appear.
class WrongInput : public testing::Test {
 protected:
  // The error of scoring `tokens` with `model`.
  void expect_score_error(const fs::path& model, const fs::path& tokens, const std::vector<std::string>& parts) {
    fs::create_directories(results_.path());
    expect_input_error({"score", "--model", model, "--tokens", tokens, "--out", results_ / "scores.safetensors"},
                       parts);
    EXPECT_THAT(names_in(results_.path()), testing::IsEmpty());
  }
  // The error of training on `data`, by a recipe of `model`.
  void expect_train_error(const std::string& recipe, const std::vector<std::string>& parts) {
    expect_input_error({"train", folder_.write("recipe.yaml", recipe)}, parts);
    EXPECT_THAT(names_in(results_.path()), testing::IsEmpty());
  }
  std::string recipe(const fs::path& model, const fs::path& data) const {
    return "model: {path: " + model.string() + "}\ndata: {train: [" + data.string() +
           "]}\nsave: {dir: " + (results_ / "run").string() + "}\ntrain: {steps: 1}\n";
  }

  TempFolder folder_, results_;
  const fs::path golden_ = golden_folder("qwen3_moe-fp32");
};

TEST_F(WrongInput, MissingFiles) {
  const fs::path tokens = golden_ / "batch.safetensors";
  expect_score_error(folder_ / "nowhere", tokens, {"nowhere"});
  expect_score_error(golden_ / "model", folder_ / "no.safetensors", {"no.safetensors"});
  expect_input_error({"score", "--model", golden_ / "model", "--adapter", folder_ / "none", "--tokens", tokens},
                     {"none", "no such folder"});
  expect_input_error({"inspect", folder_ / "nowhere"}, {"nowhere"});
  expect_input_error({"inspect", folder_.path()}, {folder_.path().string(), "config.json"});
  expect_input_error({"report", folder_ / "nowhere"}, {"nowhere", "no such folder"});
  expect_input_error({"report", folder_.path()}, {folder_.path().string(), "metrics.jsonl"});
  expect_input_error({"train", folder_ / "no.yaml"}, {"no.yaml"});
  expect_input_error({"generate", "--model", golden_ / "model", "--prompt", "hi"}, {"tokenizer.json"});
  expect_input_error({"init", "--config", folder_ / "none.json", "--out", results_ / "o"}, {"none.json"});
  EXPECT_THAT(names_in(results_.path()), testing::IsEmpty());
}

TEST_F(WrongInput, RecipeKeys) {
  expect_train_error(recipe(golden_ / "model", "x") + "trian: {steps: 1}\n", {"recipe.yaml", "'trian'", "'train'"});
  expect_train_error("model: {path: m, dytpe: float32}\n", {"recipe.yaml", "dytpe", "dtype"});
  expect_train_error(recipe(golden_ / "model", folder_ / "no.jsonl"), {"no.jsonl"});
}

TEST_F(WrongInput, ModelThatIsNoMixtureOfExperts) {
  folder_.write("llama/config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})");
  const fs::path llama = folder_ / "llama";
  expect_score_error(llama, golden_ / "batch.safetensors", {"config.json", "LlamaForCausalLM"});
  expect_input_error({"inspect", llama}, {"config.json", "LlamaForCausalLM"});
  expect_input_error({"init", "--config", llama / "config.json", "--out", results_ / "o"}, {"LlamaForCausalLM"});
  expect_train_error(recipe(llama, golden_ / "batch.safetensors"), {"LlamaForCausalLM"});
}

// A used folder is refused before the weights are read: this model has none.
TEST_F(WrongInput, UsedRunFolder) {
  folder_.write("model/config.json", read_text_file(golden_ / "model" / "config.json"));
  folder_.write("used/notes.txt", "mine");
  const std::string text = "model: {path: " + (folder_ / "model").string() + "}\ndata: {train: [" +
                           (golden_ / "batch.safetensors").string() +
                           "]}\ntrain: {steps: 1}\nsave: {resume: never, dir: " + (folder_ / "used").string() + "}\n";
  expect_train_error(text, {"save.dir", "used", "not empty"});
  expect_input_error({"train", folder_ / "recipe.yaml", "--ranks", "2"}, {"save.dir", "used", "not empty"});
  EXPECT_THAT(names_in(folder_ / "used"), testing::ElementsAre("notes.txt"));
}

TEST_F(WrongInput, TruncatedFile) {
  const fs::path model = copy_golden_model(folder_);
  const fs::path file = model / "model-00003-of-00006.safetensors";
  fs::resize_file(file, fs::file_size(file) - 64);
  expect_score_error(model, golden_ / "batch.safetensors", {"model-00003-of-00006.safetensors"});
  expect_input_error({"inspect", model}, {"model-00003-of-00006.safetensors"});
  expect_train_error(recipe(model, golden_ / "batch.safetensors"), {"model-00003-of-00006.safetensors"});
}

TEST_F(WrongInput, MissingFileOfCheckpoint) {
  const fs::path model = copy_golden_model(folder_);
  fs::remove(model / "model-00002-of-00006.safetensors");
  expect_score_error(model, golden_ / "batch.safetensors", {"model-00002-of-00006.safetensors"});
  expect_input_error({"inspect", model}, {"model-00002-of-00006.safetensors"});
}

TEST_F(WrongInput, MissingTensor) {
  const fs::path model = copy_golden_model(folder_);
  const fs::path index = model / "model.safetensors.index.json";
  const std::string tensor = "model.layers.1.mlp.experts.2.up_proj.weight";
  Json json = read_json_file(index);
  ASSERT_EQ(json["weight_map"].erase(tensor), 1u);
  write_file_atomic(index, json.dump());
  expect_score_error(model, golden_ / "batch.safetensors", {tensor});
  expect_input_error({"inspect", model}, {tensor});
  expect_train_error(recipe(model, golden_ / "batch.safetensors"), {tensor});
}

TEST_F(WrongInput, TensorOfAnotherShape) {
  const fs::path model = copy_golden_model(folder_);
  Json json = read_json_file(model / "config.json");
  json["vocab_size"] = json["vocab_size"].get<int64_t>() + 8;
  write_file_atomic(model / "config.json", json.dump());
  expect_score_error(model, golden_ / "batch.safetensors", {"embed_tokens"});
}

TEST_F(WrongInput, TokenBeyondVocabulary) {
  const fs::path tokens = write_tokens(folder_, "big.safetensors", {1, 2, 1'000'000, 3});
  expect_score_error(golden_ / "model", tokens, {"big.safetensors", "1000000"});
  expect_train_error(recipe(golden_ / "model", tokens), {"big.safetensors", "1000000"});
  expect_score_error(golden_ / "model", write_tokens(folder_, "minus.safetensors", {1, -5, 3}),
                     {"minus.safetensors", "-5"});
}

TEST_F(WrongInput, NotATokensFile) {
  expect_score_error(golden_ / "model", golden_ / "model" / "model-00001-of-00006.safetensors", {"input_ids"});
  expect_score_error(golden_ / "model", folder_.write("text.safetensors", "no tensors here"), {"text.safetensors"});
}

TEST_F(WrongInput, BrokenJsonLines) {
  const fs::path model = golden_folder("tokenizers") / "qwen3";
  const std::string good = R"({"text": "one"})"
                           "\n";
  const auto expect_texts_error = [&](const std::string& name, const std::string& text, const std::string& line) {
    expect_input_error({"tokenize", "--model", model, "--texts", folder_.write(name, text), "--json"}, {name + line});
  };
  expect_texts_error("cut.jsonl",
                     good + R"({"text": "tw)"
                            "\n",
                     ":2");
  expect_texts_error("key.jsonl",
                     good + "\n" +
                         R"({"txt": "two"})"
                         "\n",
                     ":3");
  expect_texts_error("number.jsonl", good + "7\n", ":2");
  expect_texts_error("empty.jsonl", "", "");
  expect_input_error({"tokenize", "--model", model, "--template", "qwen3", "--messages",
                      folder_.write("role.jsonl", R"({"messages": [{"role": "uesr", "content": "x"}]})")},
                     {"role.jsonl:1", "uesr"});
  const fs::path dictionary = fs::path(MORAINE_TESTS_DIR).parent_path() / "examples" / "dictionary_model";
  const std::string chat = R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})";
  expect_train_error(recipe(dictionary, folder_.write("chats.jsonl", chat + "\n" + chat.substr(0, 40))),
                     {"chats.jsonl:2"});
}

TEST_F(WrongInput, Templates) {
  const fs::path model = golden_folder("tokenizers") / "qwen3";
  const fs::path chats = folder_.write("chats.jsonl", R"({"messages": [{"role": "user", "content": "x"}]})");
  const std::vector<std::string> tokenize{"tokenize", "--model", model, "--messages", chats};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> args = tokenize;
    args.insert(args.end(), more.begin(), more.end());
    return args;
  };
  expect_input_error(with({"--template", "qwen9"}), {"--template", "'qwen9'"});
  expect_input_error(with({"--template", "react"}), {"no chat template", "--template-options"});
  expect_input_error(with({"--template", "qwen3", "--template-options", "{"}), {"--template-options"});
  expect_input_error(with({"--template", "qwen3", "--template-options", "{\"x\": 1}"}), {"--template-options", "'x'"});
  expect_input_error({"tokenize", "--model", model, "--text", "x", "--template", "qwen3"},
                     {"--template", "--messages"});
  expect_input_error(with({"model.path=x"}), {"model.path=x", "section data only"});
  expect_input_error(with({"--template", "qwen3", "data.template=qwen3"}),
                     {"data.template=qwen3", "--template says that already"});
  expect_input_error({"tokenize", "--model", model, "--text", "x", "data.loss_on=all"},
                     {"data.loss_on=all", "--messages only"});
}

TEST_F(WrongInput, AdapterOfAnotherModel) {
  const fs::path adapter = folder_ / "adapter";
  fs::copy(golden_ / "lora" / "adapter", adapter);
  Json config = read_json_file(adapter / "adapter_config.json");
  const auto expect_error = [&](const std::string& file, const std::string& part) {
    write_file_atomic(adapter / "adapter_config.json", config.dump());
    expect_input_error({"score", "--model", golden_ / "model", "--adapter", adapter, "--tokens",
                        golden_ / "batch.safetensors", "--grads", results_ / "g.safetensors"},
                       {file, part});
    EXPECT_THAT(names_in(results_.path()), testing::IsEmpty());
  };
  config["r"] = 8;
  expect_error("adapter_model.safetensors", "lora_A");
  config["r"] = 4;
  config["target_parameters"] = nullptr;
  expect_error("adapter_model.safetensors", "unexpected tensor");
  config["target_modules"] = {"frob"};
  expect_error("adapter_config.json", "nothing");
  config["use_dora"] = true;
  expect_error("adapter_config.json", "use_dora");
}

TEST_F(WrongInput, InitWritesNothing) {
  Json config = tiny_config();
  const auto init = [&](const std::vector<std::string>& more) {
    std::vector<std::string> args{"init", "--config", folder_.write("config.json", config.dump())};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  };
  expect_input_error(init({"--out", results_ / "o", "--dtype", "float8"}), {"--dtype", "'float8'"});
  config["num_experts"] = 0;
  expect_input_error(init({"--out", results_ / "o"}), {"config.json", "num_experts"});
  config.erase("num_experts");
  expect_input_error(init({"--out", results_ / "o"}), {"config.json", "num_local_experts"});
  EXPECT_THAT(names_in(results_.path()), testing::IsEmpty());

  config = tiny_config();
  results_.write("used/notes.txt", "mine");
  expect_input_error(init({"--out", results_ / "used"}), {"used", "not empty"});
  EXPECT_THAT(names_in(results_ / "used"), testing::ElementsAre("notes.txt"));
}

}  // namespace
}  // namespace moraine
