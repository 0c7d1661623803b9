// What each key of an adapter becomes in PEFT, vLLM and SGLang, by their rules: adapters as moraine writes them, and
// others.
#include <gmock/gmock.h>

#include <map>

#include "adapter/open_adapter.h"
#include "adapter/server_keys.h"
#include "base/json.h"
#include "base/temp_folder.h"
#include "checkpoint/tensor_file.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const Server& server_named(const std::string& name) {
  for (const Server& server : servers())
    if (server.name == name) return server;
  ADD_FAILURE() << name;
  return servers().front();
}

struct Model {
  std::string golden, family;
};
const Model kQwen3{"qwen3_moe-fp32", "Qwen3-MoE"}, kQwen35{"qwen3_5_moe-fp32", "Qwen3.5-MoE"},
    kQwen35Text{"qwen3_5_moe-fp32", "Qwen3.5-MoE (text class)"}, kV4{"deepseek_v4-fp32", "DeepSeek-V4"},
    kMixtral{"mixtral-fp32", "Mixtral"}, kOlmoe{"olmoe-fp32", "OLMoE"}, kGlm{"glm4_moe-fp32", "GLM-4.5"},
    kMiniMax{"minimax_m2-fp32", "MiniMax-M2"}, kQwen2{"qwen2_moe-fp32", "Qwen2-MoE"},
    kErnie{"ernie4_5_moe-fp32", "ERNIE-4.5-MoE"}, kNext{"qwen3_next-fp32", "Qwen3-Next"},
    kDots{"dots1-fp32", "dots.llm1"};

class ServerKeys : public testing::Test {
 protected:
  // The golden adapter of `model`, in that format, opened to be spoilt.
  void take(const Model& model, AdapterFormat format) {
    model_ = model;
    const fs::path golden = golden_folder(model.golden);
    layout_ = make_layout(HfConfig::read(golden / "model"));
    fs::path adapter = golden / "lora" / "adapter";
    if (format == AdapterFormat::kPerExpert) {
      const fs::path converted = folder_ / model.golden;
      if (!fs::exists(converted))
        convert_adapter(*layout_, adapter, read_adapter_selection(*layout_, adapter), format, converted);
      adapter = converted;
    }
    const SafetensorsHeader header = read_safetensors_header(adapter / "adapter_model.safetensors");
    tensors_.clear();
    for (const SafetensorsEntry& entry : header.entries) tensors_[entry.name] = read_tensor(header, entry);
    config_ = read_json_file(adapter / "adapter_config.json");
  }
  ServerReport check(const std::string& server) {
    write_tensors(folder_ / "adapter_model.safetensors", {tensors_.begin(), tensors_.end()});
    folder_.write("adapter_config.json", config_.dump());
    return check_for_server(server_named(server), model_.family, *layout_, folder_.path());
  }
  // The row whose keys contain `piece`.
  KeyRow row(const std::string& server, const std::string& piece) {
    const ServerReport report = check(server);
    for (const auto* rows : {&report.config, &report.tensors})
      for (const KeyRow& row : *rows)
        if (row.first.find(piece) != row.first.npos) return row;
    ADD_FAILURE() << server << " has no row of " << piece;
    return {};
  }
  void rename(const std::string& from, const std::string& to) {
    std::map<std::string, at::Tensor> renamed;
    for (const auto& [key, values] : tensors_) {
      std::string name = key;
      if (const size_t at = name.find(from); at != name.npos) name.replace(at, from.size(), to);
      renamed[name] = values;
    }
    tensors_ = renamed;
  }

  TempFolder folder_;
  Model model_;
  std::unique_ptr<ModelLayout> layout_;
  std::map<std::string, at::Tensor> tensors_;
  Json config_;
};

TEST_F(ServerKeys, OfWhatMoraineWrites) {
  struct Case {
    Model model;
    AdapterFormat format;
    std::string server, piece;  // of a key that is not read; empty: all are
    Fate fate = Fate::kRead;
    std::string says = {};
  };
  constexpr auto kPeft = AdapterFormat::kPeft, kPerExpert = AdapterFormat::kPerExpert;
  const std::vector<Case> cases{
      {kQwen3, kPeft, "peft", ""},
      {kQwen3, kPerExpert, "peft", ""},
      {kQwen3, kPeft, "vllm", ".experts.", Fate::kRefused, "--enable-mixed-moe-lora-format"},
      {kQwen3, kPerExpert, "vllm", ""},
      {kQwen3, kPeft, "sglang", ".experts.", Fate::kRefused, "not read"},
      {kQwen3, kPerExpert, "sglang", ""},
      {kQwen35, kPeft, "peft", ""},
      {kQwen35, kPerExpert, "peft", ".experts.0.", Fate::kIgnored, "not one each"},
      {kQwen35, kPeft, "vllm", ""},
      {kQwen35, kPerExpert, "vllm", ".experts.0.", Fate::kRefused, "--enable-mixed-moe-lora-format"},
      {kQwen35, kPerExpert, "sglang", "in_proj_qkv", Fate::kRefused, "in_proj_qkvz"},
      {kQwen35Text, kPeft, "peft", ""},
      {kQwen35Text, kPeft, "vllm", ".experts.", Fate::kRefused, "--enable-mixed-moe-lora-format"},
      {kQwen35Text, kPerExpert, "vllm", ""},
      {kQwen35Text, kPerExpert, "sglang", "in_proj_qkv", Fate::kRefused, "in_proj_qkvz"},
      {kV4, kPeft, "peft", ""},
      {kV4, kPerExpert, "peft", "attn.wq_a", Fate::kIgnored, "no such module"},
      {kV4, kPerExpert, "peft", "target_modules", Fate::kRefused, "no module of the model"},
      {kV4, kPeft, "vllm", "q_a_proj", Fate::kRefused, "ends so"},
      {kV4, kPeft, "vllm", ".experts.base_layer", Fate::kIgnored, "no module has this name"},
      {kV4, kPerExpert, "vllm", "compressor.wkv", Fate::kIgnored, "computed without it"},
      {kV4, kPerExpert, "vllm", "shared_experts.w1", Fate::kRead, "shared_experts.gate_up_proj"},
      {kV4, kPerExpert, "sglang", "attn.wq_a", Fate::kRefused, "reads no adapters of DeepSeek-V4"},
      {kMixtral, kPeft, "peft", ""},
      {kMixtral, kPerExpert, "peft", ""},
      {kMixtral, kPeft, "vllm", ".experts.", Fate::kIgnored, "no module has this name"},
      {kMixtral, kPerExpert, "vllm", ""},
      {kMixtral, kPerExpert, "sglang", "target_modules", Fate::kRefused, "names w1, w2 and w3"},
      {kMixtral, kPerExpert, "sglang", ".experts.0.w1", Fate::kRefused, "does not name gate_proj and up_proj"},
      {kOlmoe, kPeft, "peft", ""},
      {kOlmoe, kPerExpert, "vllm", ""},
      {kOlmoe, kPerExpert, "sglang", ""},
      {kGlm, kPeft, "peft", ""},
      {kGlm, kPerExpert, "peft", ""},
      {kGlm, kPeft, "vllm", ".experts.", Fate::kRefused, "--enable-mixed-moe-lora-format"},
      {kGlm, kPerExpert, "vllm", ""},
      {kGlm, kPerExpert, "sglang", ""},
      {kMiniMax, kPerExpert, "peft", ""},
      {kMiniMax, kPeft, "vllm", ".experts.", Fate::kIgnored, "no module has this name"},
      {kMiniMax, kPerExpert, "vllm", ""},
      {kMiniMax, kPerExpert, "sglang", "target_modules", Fate::kRefused, "names w1, w2 and w3"},
      {kQwen2, kPerExpert, "peft", ".experts.0.", Fate::kIgnored, "not one each"},
      {kQwen2, kPerExpert, "vllm", ""},
      {kQwen2, kPerExpert, "sglang", ""},
      {kErnie, kPerExpert, "peft", ""},
      {kErnie, kPerExpert, "vllm", ""},
      {kErnie, kPerExpert, "sglang", ".experts.0.up_proj", Fate::kRefused, "no buffers"},
      {kErnie, kPerExpert, "sglang", "target_modules", Fate::kRefused, "names down_proj and gate_up_proj"},
      {kNext, kPerExpert, "peft", ""},
      {kNext, kPerExpert, "vllm", ""},
      {kNext, kPerExpert, "sglang", "self_attn.q_proj", Fate::kRefused, "output gate"},
      {kDots, kPerExpert, "peft", ""},
      {kDots, kPerExpert, "vllm", "q_proj", Fate::kRefused, "reads no adapters of dots.llm1"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.model.golden + " " + (c.format == kPeft ? "peft" : "per-expert") + " for " + c.server);
    take(c.model, c.format);
    const ServerReport report = check(c.server);
    EXPECT_EQ(report.is_read(), c.piece.empty());
    EXPECT_EQ(report.read + report.ignored + report.refused,
              static_cast<int64_t>(tensors_.size() + report.config.size()));
    EXPECT_LT(report.tensors.size(), 40u);  // rows, however many experts
    for (const KeyRow& row : report.tensors)
      if (c.piece.empty()) EXPECT_EQ(row.fate, Fate::kRead) << row.first << ": " << row.says;
    if (c.piece.empty()) continue;
    const KeyRow found = row(c.server, c.piece);
    EXPECT_EQ(found.fate, c.fate) << found.first;
    EXPECT_THAT(found.says, HasSubstr(c.says)) << found.first;
  }
}

// Of names alone: families whose adapters are not among the goldens, and names that moraine does not write.
TEST(ServerRules, SayWhatANameGoesTo) {
  struct Case {
    std::string server, family, name;
    Fate fate;
    std::string says = {};  // a piece of it
  };
  constexpr auto kRead = Fate::kRead, kIgnored = Fate::kIgnored, kRefused = Fate::kRefused;
  const std::string layer = "model.layers.3.";
  for (const Case& c : std::vector<Case>{
           {"peft", "GLM-4.5", "mlp.experts.7.up_proj", kRead, "mlp.experts"},
           {"peft", "GLM-4.5", "mlp.shared_experts.up_proj", kIgnored, "mean the routed experts"},
           {"peft", "Qwen3-Next", "mlp.shared_expert.down_proj", kIgnored, "mean the routed experts"},
           {"peft", "Qwen3-Next", "linear_attn.in_proj_qkvz", kRead},
           {"peft", "MiniMax-M2", "block_sparse_moe.experts.7.w3", kRead, "mlp.experts"},
           {"peft", "gpt-oss", "mlp.experts.7.gate_proj", kIgnored, "one module"},
           {"peft", "DeepSeek-V3", "self_attn.kv_b_proj", kRead},
           {"vllm", "Mixtral", "block_sparse_moe.experts.7.gate_proj", kRefused, "ends so"},
           {"vllm", "GLM-4.5", "mlp.shared_experts.gate_proj", kRead, "mlp.shared_experts.gate_up_proj"},
           {"vllm", "GLM-4.5", "mlp.experts", kRefused, "--enable-mixed-moe-lora-format"},
           {"vllm", "MiniMax-M2", "block_sparse_moe.experts.7.w1", kRead, "block_sparse_moe.experts"},
           {"vllm", "MiniMax-M2", "mlp.experts.base_layer", kIgnored, "no module"},
           {"vllm", "Qwen2-MoE", "mlp.shared_expert_gate", kRead},
           {"vllm", "ERNIE-4.5-MoE", "mlp.down_proj", kRead, "mlp.down_proj"},
           {"vllm", "DeepSeek-V3", "self_attn.q_a_proj", kRead, "fused_qkv_a_proj"},
           {"vllm", "DeepSeek-V3", "self_attn.kv_b_proj", kIgnored, "computed without it"},
           {"vllm", "DeepSeek-V3", "mlp.experts.7.down_proj", kRead, "mlp.experts"},
           {"vllm", "gpt-oss", "self_attn.q_proj", kRead, "attn.qkv_proj"},
           {"vllm", "gpt-oss", "mlp.experts.base_layer", kRead, "mlp.experts"},
           {"vllm", "gpt-oss", "mlp.experts.7.w1", kRefused, "--enable-mixed-moe-lora-format"},
           {"vllm", "Qwen3-Next", "linear_attn.in_proj_ba", kRead},
           {"vllm", "Qwen3-Next", "mlp.experts", kRefused, "--enable-mixed-moe-lora-format"},
           {"sglang", "GLM-4.5", "mlp.shared_experts.up_proj", kRead, "mlp.shared_experts.gate_up_proj"},
           {"sglang", "MiniMax-M2", "block_sparse_moe.experts.7.w1", kRead, "block_sparse_moe.experts"},
           {"sglang", "Qwen2-MoE", "mlp.shared_expert_gate", kRefused, "no module"},
           {"sglang", "ERNIE-4.5-MoE", "mlp.experts.7.up_proj", kRefused, "no buffers"},
           {"sglang", "ERNIE-4.5-MoE", "self_attn.q_proj", kRead},
           {"sglang", "DeepSeek-V3", "self_attn.kv_a_proj_with_mqa", kRead, "fused_qkv_a_proj_with_mqa"},
           {"sglang", "DeepSeek-V3", "self_attn.kv_b_proj", kRead},
           {"sglang", "gpt-oss", "mlp.experts", kRefused, "3-D"},
           {"sglang", "Qwen3-Next", "self_attn.v_proj", kRefused, "output gate"},
           {"sglang", "Qwen3-Next", "self_attn.o_proj", kRead},
           {"sglang", "Qwen3-Next", "linear_attn.out_proj", kRefused},
       }) {
    const Server& server = server_named(c.server);
    const FamilyRules* rules = rules_for(server, c.family);
    ASSERT_TRUE(rules) << c.server << " " << c.family;
    const NameRule found = rules_of_names(server, *rules, {layer + c.name}).front();
    EXPECT_EQ(found.fate, c.fate) << c.server << " " << c.family << " " << c.name;
    EXPECT_THAT(found.says, HasSubstr(c.says)) << c.server << " " << c.family << " " << c.name;
  }
}

TEST_F(ServerKeys, OfOtherForms) {
  take(kQwen3, AdapterFormat::kPerExpert);
  const auto good = tensors_;
  const auto fates = [&](const std::string& piece) {
    std::vector<Fate> found;
    for (const char* server : {"peft", "vllm", "sglang"}) found.push_back(row(server, piece).fate);
    return found;
  };
  using Fates = std::vector<Fate>;
  rename("lora_A.weight", "lora_A.default.weight");
  EXPECT_EQ(fates("q_proj.lora_A"), (Fates{Fate::kIgnored, Fate::kRefused, Fate::kRead}));
  tensors_ = good;
  rename("base_model.model.", "");
  EXPECT_EQ(fates("q_proj"), (Fates{Fate::kIgnored, Fate::kRead, Fate::kRead}));
  tensors_ = good;
  rename("base_model.model.model.", "base_model.model.");
  EXPECT_EQ(fates("q_proj"), (Fates{Fate::kIgnored, Fate::kIgnored, Fate::kRead}));
  EXPECT_THAT(row("vllm", "q_proj").says, HasSubstr("DEBUG"));
  tensors_ = good;
  rename("layers.1.self_attn", "layers.99.self_attn");
  EXPECT_EQ(fates("layers.99."), (Fates{Fate::kIgnored, Fate::kIgnored, Fate::kRefused}));
  tensors_ = good;
  rename("q_proj", "query");
  EXPECT_EQ(fates("query"), (Fates{Fate::kIgnored, Fate::kRefused, Fate::kRefused}));
  EXPECT_EQ(row("sglang", "k_proj").fate, Fate::kRefused);
  tensors_ = good;
  std::erase_if(tensors_,
                [](const auto& tensor) { return tensor.first.ends_with("layers.0.self_attn.o_proj.lora_B.weight"); });
  EXPECT_EQ(fates("layers.0.self_attn.o_proj"), (Fates{Fate::kIgnored, Fate::kRefused, Fate::kRefused}));
  EXPECT_EQ(fates("layers.1.self_attn.o_proj"), (Fates{Fate::kRead, Fate::kRead, Fate::kRead}));
  tensors_ = good;
  std::erase_if(tensors_, [](const auto& tensor) {
    return tensor.first.find("layers.1.mlp.experts.7.up_proj") != tensor.first.npos;
  });
  EXPECT_EQ(row("vllm", "layers.1.mlp.experts.0.").fate, Fate::kRefused);
  EXPECT_EQ(row("vllm", "layers.0.mlp.experts.0.").fate, Fate::kRead);
  tensors_ = good;
  tensors_["base_model.model.model.layers.0.mlp.experts.lora_A.weight"] = at::zeros({8 * 4, 40});
  tensors_["base_model.model.model.layers.0.mlp.experts.lora_B.weight"] = at::zeros({64, 8 * 4});
  EXPECT_EQ(fates("layers.0.mlp.experts.0."), (Fates{Fate::kRefused, Fate::kRefused, Fate::kRefused}));
  tensors_ = good;
  for (auto& [name, values] : tensors_)
    if (name.ends_with("q_proj.lora_A.weight")) values = at::zeros({4, 65});
  EXPECT_EQ(fates("q_proj.lora_A"), (Fates{Fate::kRefused, Fate::kRefused, Fate::kRefused}));
  EXPECT_THAT(row("vllm", "q_proj.lora_A").says, HasSubstr("has shape [4, 65], but the module"));
}

TEST_F(ServerKeys, OfConfigurations) {
  take(kQwen3, AdapterFormat::kPerExpert);
  const Json good = config_;
  const auto with = [&](const Json& changes, const std::string& server) {
    config_ = good;
    config_.update(changes);
    std::vector<std::string> rows;
    for (const KeyRow& row : check(server).config)
      rows.push_back(row.keys + (row.fate == Fate::kIgnored ? " ignored" : " refused"));
    return rows;
  };
  using Rows = std::vector<std::string>;
  for (const char* server : {"peft", "vllm", "sglang"}) EXPECT_THAT(with(Json::object(), server), IsEmpty()) << server;
  EXPECT_EQ(with({{"use_dora", true}}, "vllm"), (Rows{"use_dora refused"}));
  EXPECT_EQ(with({{"init_lora_weights", "pissa"}}, "vllm"), (Rows{"init_lora_weights refused"}));
  EXPECT_EQ(with({{"init_lora_weights", "gaussian"}, {"bias", "none"}}, "vllm"), Rows{});
  EXPECT_EQ(with({{"r", 1024}}, "vllm"), (Rows{"r refused"}));
  EXPECT_EQ(with({{"use_rslora", true}, {"rank_pattern", {{"q_proj", 8}}}}, "sglang"),
            (Rows{"use_rslora ignored", "rank_pattern ignored"}));
  EXPECT_EQ(with({{"use_rslora", true}, {"rank_pattern", {{"q_proj", 8}}}}, "vllm"), Rows{});
  EXPECT_EQ(with({{"target_modules", ".*proj"}}, "sglang"), (Rows{"target_modules refused"}));
  EXPECT_EQ(with({{"target_modules", "all-linear"}}, "sglang"), Rows{});
  config_ = good;
  for (const char* key : {"lora_alpha", "target_modules", "peft_type"}) config_.erase(key);
  EXPECT_THAT(check("vllm").config, SizeIs(2));
  EXPECT_THAT(check("sglang").config, SizeIs(3));
  EXPECT_THAT(check("peft").config, SizeIs(1));
  // Which modules an adapter has is the configuration's to say in PEFT, and in part in SGLang.
  config_ = good;
  config_["target_modules"] = {"q_proj", "k_proj", "v_proj", "down_proj"};
  EXPECT_EQ(row("peft", "o_proj").fate, Fate::kIgnored);
  EXPECT_EQ(row("vllm", "o_proj").fate, Fate::kRead);
  EXPECT_EQ(row("sglang", "o_proj").fate, Fate::kRefused);
  EXPECT_EQ(row("sglang", "experts.0.down_proj").fate, Fate::kIgnored);
  take(kQwen3, AdapterFormat::kPeft);
  config_["target_parameters"] = {"mlp.experts.down_proj"};
  EXPECT_EQ(row("peft", "experts.base_layer").fate, Fate::kIgnored);
}

}  // namespace
}  // namespace moraine
