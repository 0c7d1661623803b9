// Readers of config.json: every field that changes the mathematics, both forms of each, and what is refused.
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "base/temp_folder.h"
#include "models/blocks/gated_delta_net.h"
#include "models/blocks/gqa.h"
#include "models/blocks/mla.h"
#include "models/blocks/mlp.h"
#include "models/deepseek_v4/config.h"
#include "models/families.h"
#include "models/golden_headers.h"
#include "models/model_layout.h"

namespace moraine {
namespace {

using namespace testing_support;
using testing::AllOf;
using testing::HasSubstr;

// A change of a config.json, and what the error must name. null removes the key.
struct Refusal {
  std::string key;
  Json value;
  std::string named;
};

// Every key on its own, with a value that cannot be.
template <typename Read>
void expect_refusals(const Json& good, const std::vector<Refusal>& refusals, const Read& read) {
  EXPECT_EQ(error_of([&] { read(good); }), "");
  for (const Refusal& refusal : refusals) {
    Json config = good;
    config[refusal.key] = refusal.value;
    EXPECT_THAT(error_of([&] { read(config); }), AllOf(HasSubstr("config.json"), HasSubstr(refusal.named)))
        << refusal.key << " = " << refusal.value;
  }
}

namespace v4 = deepseek_v4;

v4::Config read_v4(const Json& json) { return v4::read_config(HfConfig(json, "config.json"), DtypeChoice::kAuto); }

TEST(DeepseekV4Config, BothFormsSayTheSame) {
  v4::Config hub = read_v4(GoldenHeaders("deepseek_v4-fp32").config.json());
  const v4::Config transformers = read_v4(GoldenHeaders("deepseek_v4-bf16").config.json());
  EXPECT_EQ(hub.dtype, DType::kF32);
  hub.dtype = DType::kBF16;
  EXPECT_TRUE(hub == transformers);
}

TEST(DeepseekV4Config, ReadsTheHubsForm) {
  using enum v4::LayerType;
  using enum v4::MlpLayerType;
  const v4::Config c = read_v4(GoldenHeaders("deepseek_v4-fp32").config.json());
  EXPECT_THAT(c.layer_types, testing::ElementsAre(kSlidingAttention, kSlidingAttention, kCompressedSparseAttention,
                                                  kHeavilyCompressedAttention, kCompressedSparseAttention));
  EXPECT_THAT(c.mlp_layer_types, testing::ElementsAre(kHashMoe, kHashMoe, kHashMoe, kMoe, kMoe));
  EXPECT_TRUE((c.rope_main == RopeSpec{.rope_theta = 10000, .dim = 8, .yarn = false}));
  EXPECT_TRUE((c.rope_compress == RopeSpec{.rope_theta = 160000,
                                           .dim = 8,
                                           .yarn = true,
                                           .factor = 16,
                                           .beta_fast = 32,
                                           .beta_slow = 1,
                                           .attention_factor = 1,
                                           .original_max_position_embeddings = 65536}));
  EXPECT_EQ(c.compress_rate(kCompressedSparseAttention), 4);
  EXPECT_EQ(c.compress_rate(kHeavilyCompressedAttention), 8);
  EXPECT_EQ(c.swiglu_limit, 1.8);
  EXPECT_EQ(c.sliding_window, 8);
  EXPECT_EQ(c.routed_scaling_factor, 1.5);
  EXPECT_FALSE(c.stored.linear || c.stored.experts);

  const v4::Config flash = v4::read_config(hub_config("DeepSeek-V4-Flash"), DtypeChoice::kAuto);
  EXPECT_EQ(flash.layer_types.size(), 43u);
  EXPECT_EQ(std::count(flash.mlp_layer_types.begin(), flash.mlp_layer_types.end(), kHashMoe), 3);
  EXPECT_EQ(flash.compress_rate(kHeavilyCompressedAttention), 128);
  EXPECT_EQ(flash.rope_main.dim, 64);
  EXPECT_EQ(flash.stored.linear, (QuantFormat{DType::kF8E4M3, DType::kF8E8M0, 128, 128}));
  EXPECT_EQ(flash.stored.experts, QuantFormat::fp4(DType::kF8E8M0));
}

TEST(DeepseekV4Config, AttentionFactorOfYarn) {
  Json config = GoldenHeaders("deepseek_v4-bf16").config.json();
  Json& compress = config["rope_parameters"]["compress"];
  compress["attention_factor"] = 1.25;
  EXPECT_EQ(read_v4(config).rope_compress.attention_factor, 1.25);
  // Nested parameters without it are YaRN's own, unlike the hub's form.
  compress.erase("attention_factor");
  EXPECT_DOUBLE_EQ(read_v4(config).rope_compress.attention_factor, 0.1 * std::log(16.0) + 1);
}

TEST(DeepseekV4Config, NamesWhatIsMissingOrImpossible) {
  std::vector<Refusal> refusals{{"num_experts_per_tok", 9, "num_experts_per_tok 9 is more than n_routed_experts 8"},
                                {"num_key_value_heads", 2, "num_key_value_heads"},
                                {"o_groups", 3, "o_groups must divide num_attention_heads"},
                                {"hidden_act", "gelu", "hidden_act"},
                                {"scoring_func", "sigmoid", "scoring_func"},
                                {"attention_bias", true, "attention_bias"},
                                {"compress_ratios", nullptr, "compress_ratios"},
                                {"compress_ratios", {0, 0, 4, 128}, "compress_ratios has 4 entries"},
                                {"compress_ratios", {0, 0, 4, 64, 4}, "compress_ratios: 64"},
                                {"layer_types", {"full_attention"}, "layer_types: 'full_attention'"},
                                {"mlp_layer_types", {"dense"}, "mlp_layer_types: 'dense'"},
                                {"mlp_layer_types", {"moe"}, "mlp_layer_types has 1 entries"},
                                {"num_hash_layers", -1, "num_hash_layers"},
                                {"num_hash_layers", nullptr, "num_hash_layers"},
                                {"qk_rope_head_dim", nullptr, "qk_rope_head_dim"},
                                {"qk_rope_head_dim", 7, "partial_rotary_factor"},
                                {"index_head_dim", 4, "index_head_dim"},
                                {"rope_scaling", {{"type", "linear"}}, "rope_type 'linear'"},
                                {"rope_scaling", {{"type", "yarn"}}, "factor"},
                                {"swiglu_limit", 0, "swiglu_limit"},
                                {"hc_eps", -1, "hc_eps"},
                                {"torch_dtype", "float16", "float16"},
                                {"quantization_config", {{"quant_method", "gptq"}}, "quant_method 'gptq'"}};
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "q_lora_rank", "o_groups",
        "o_lora_rank", "sliding_window", "index_n_heads", "index_head_dim", "index_topk", "hc_mult", "n_routed_experts",
        "num_experts_per_tok", "moe_intermediate_size"}) {
    refusals.push_back({key, nullptr, std::string("missing key '") + key + "'"});
    refusals.push_back({key, 0, std::string(key) + " is 0"});
    refusals.push_back({key, int64_t{1} << 40, key});
  }
  expect_refusals(GoldenHeaders("deepseek_v4-fp32").config.json(), refusals, read_v4);

  Json nested = GoldenHeaders("deepseek_v4-bf16").config.json();
  nested["rope_parameters"].erase("compress");
  EXPECT_THAT(error_of([&] { read_v4(nested); }), HasSubstr("missing key 'compress'"));
}

Decoder read_text(const Json& text) {
  Json json = GoldenHeaders("qwen3_5_moe-fp32").config.json();
  json["text_config"] = text;
  return describe_qwen3_5_moe(HfConfig(json, "config.json"), DtypeChoice::kAuto);
}

// Of each layer, whether its attention is full.
std::vector<bool> full_attention(const Decoder& decoder) {
  std::vector<bool> full;
  for (const DecoderLayer& layer : decoder.layers)
    full.push_back(dynamic_cast<const Gqa*>(layer.mixer.get()) != nullptr);
  return full;
}

const Gqa& attention_of(const Decoder& decoder) {
  for (const DecoderLayer& layer : decoder.layers)
    if (const auto* attention = dynamic_cast<const Gqa*>(layer.mixer.get())) return *attention;
  throw std::runtime_error("no attention");
}

TEST(Qwen3_5MoeConfig, LayerTypesWinOverTheInterval) {
  Json text = GoldenHeaders("qwen3_5_moe-fp32").config.json()["text_config"];
  text["layer_types"] = {"full_attention", "linear_attention", "linear_attention", "full_attention"};
  EXPECT_THAT(full_attention(read_text(text)), testing::ElementsAre(true, false, false, true));
  text.erase("layer_types");
  text["full_attention_interval"] = 3;
  EXPECT_THAT(full_attention(read_text(text)), testing::ElementsAre(false, false, true, false));
}

TEST(Qwen3_5MoeConfig, ReadsRopeInEitherForm) {
  Json text = GoldenHeaders("qwen3_5_moe-fp32").config.json()["text_config"];
  const auto rope = [&] {
    const Decoder decoder = read_text(text);
    return std::pair(attention_of(decoder).rope.rope_theta, attention_of(decoder).rope.dim);
  };
  EXPECT_EQ(rope(), std::pair(1e7, int64_t{8}));
  text.erase("rope_parameters");
  text["rope_theta"] = 1e7;
  text.erase("partial_rotary_factor");  // transformers' default for this family is the same quarter
  EXPECT_EQ(rope(), std::pair(1e7, int64_t{8}));
  text["partial_rotary_factor"] = 0.5;
  EXPECT_EQ(rope(), std::pair(1e7, int64_t{16}));
}

TEST(Qwen3_5MoeConfig, TextClassHasItsFieldsAtTheTop) {
  const HfConfig outer = GoldenHeaders("qwen3_5_moe-bf16").config;
  Json text = outer.json()["text_config"];
  text["architectures"] = {"Qwen3_5MoeForCausalLM"};
  text["num_local_experts"] = text["num_experts"];  // transformers saves it under this name
  text.erase("num_experts");
  const auto expected = make_layout(outer), flat = make_layout(HfConfig(text, "config.json"));
  EXPECT_EQ(flat->shape().dtype, DType::kBF16);
  const auto params = [](const ModelLayout& layout) {
    std::map<std::string, std::vector<int64_t>> shapes;
    for (const ImageSpec& image : image_specs(layout, no_checkpoint()))
      for (const ParamSpec& param : image.params) shapes[full_name(image, param)] = param.shape;
    return shapes;
  };
  EXPECT_EQ(params(*flat), params(*expected));
  EXPECT_EQ(flat->dense_spec(0, no_checkpoint()).params[0].sources[0].name, "model.layers.0.input_layernorm.weight");
  EXPECT_EQ(expected->dense_spec(0, no_checkpoint()).params[0].sources[0].name,
            "model.language_model.layers.0.input_layernorm.weight");
}

TEST(Qwen3_5MoeConfig, NamesWhatIsMissingOrImpossible) {
  std::vector<Refusal> refusals{
      {"num_experts_per_tok", 9, "num_experts_per_tok 9 is more than num_experts 8"},
      {"num_key_value_heads", 3, "num_key_value_heads must divide"},
      {"linear_num_key_heads", 3, "linear_num_key_heads must divide"},
      {"hidden_act", "gelu", "hidden_act"},
      {"attn_output_gate", false, "attn_output_gate"},
      {"mlp_only_layers", {0}, "mlp_only_layers"},
      {"layer_types", {"linear_attention"}, "layer_types has 1 entries"},
      {"layer_types", {"sliding_attention"}, "layer_types: 'sliding_attention'"},
      {"rope_parameters", {{"rope_type", "longrope"}}, "rope_type 'longrope'"},
      {"rope_parameters", {{"partial_rotary_factor", 0.25}}, "rope_theta"},
      {"rope_parameters", {{"partial_rotary_factor", 0.03}, {"rope_theta", 10}}, "partial_rotary_factor"},
      {"tie_word_embeddings", true, "tie_word_embeddings"},
      {"dtype", "float16", "float16"}};
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "linear_num_key_heads", "linear_key_head_dim", "linear_num_value_heads", "linear_value_head_dim",
        "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size"}) {
    refusals.push_back({key, nullptr, std::string("missing key '") + key + "'"});
    refusals.push_back({key, 0, std::string(key) + " is 0"});
  }
  refusals.push_back({"num_experts", nullptr, "num_local_experts"});
  refusals.push_back({"num_experts", 0, "num_experts is 0"});
  expect_refusals(GoldenHeaders("qwen3_5_moe-fp32").config.json()["text_config"], refusals, read_text);

  Json outer = GoldenHeaders("qwen3_5_moe-fp32").config.json();
  outer.erase("text_config");
  EXPECT_THAT(error_of([&] { make_layout(HfConfig(outer, "config.json")); }), HasSubstr("'text_config'"));
}

Decoder read_v3(const Json& json) { return describe_deepseek_v3(HfConfig(json, "config.json"), DtypeChoice::kAuto); }
const Mla& latent_attention(const Decoder& decoder) { return dynamic_cast<const Mla&>(*decoder.layers[0].mixer); }
const Mlp* dense_block(const Decoder& decoder, size_t layer) {
  return dynamic_cast<const Mlp*>(decoder.layers[layer].feed_forward.get());
}

TEST(DeepseekV3Config, ReadsTheReleases) {
  const Decoder v3 = describe_deepseek_v3(hub_config("DeepSeek-V3"), DtypeChoice::kAuto);
  const Mla& attention = latent_attention(v3);
  EXPECT_EQ(attention.q_rank, 1536);
  EXPECT_EQ(attention.kv_rank, 512);
  EXPECT_TRUE(attention.rope_interleaved);  // no key says it
  EXPECT_EQ(attention.rope.dim, 64);
  EXPECT_EQ(attention.rope.attention_factor, 1);  // mscale / mscale_all_dim
  EXPECT_DOUBLE_EQ(attention.rope.score_factor, std::pow(0.1 * std::log(40.0) + 1, 2));
  EXPECT_TRUE(dense_block(v3, 2));
  EXPECT_FALSE(dense_block(v3, 3));
  EXPECT_EQ(v3.stored.quantization->linear->scales, DType::kF32);

  const Decoder flash = describe_glm4_moe_lite(
      HfConfig(GoldenHeaders("glm4_moe_lite-fp32").config.json(), "config.json"), DtypeChoice::kAuto);
  EXPECT_TRUE(latent_attention(flash).bias);
  EXPECT_EQ(latent_attention(flash).rope.score_factor, 1);
  EXPECT_EQ(latent_attention(read_v3(GoldenHeaders("moonlight-fp32").config.json())).q_rank, 0);
}

TEST(DeepseekV3Config, ScoresAreScaledWhereMscaleAllDimSaysSo) {
  Json config = GoldenHeaders("deepseek_v3-fp32").config.json();
  Json& scaling = config["rope_scaling"];
  scaling["mscale"] = 0.707;
  const auto rope = [&] { return latent_attention(read_v3(config)).rope; };
  const double of_one = 0.1 * std::log(40.0) + 1;
  EXPECT_DOUBLE_EQ(rope().attention_factor, (0.1 * 0.707 * std::log(40.0) + 1) / of_one);
  EXPECT_DOUBLE_EQ(rope().score_factor, of_one * of_one);
  scaling.erase("mscale_all_dim");
  EXPECT_DOUBLE_EQ(rope().attention_factor, of_one);
  EXPECT_EQ(rope().score_factor, 1);
}

TEST(DeepseekV3Config, DenseLayersInEitherForm) {
  Json config = GoldenHeaders("glm4_moe_lite-fp32").config.json();
  const auto dense = [&] {
    const Decoder decoder = describe_glm4_moe_lite(HfConfig(config, "config.json"), DtypeChoice::kAuto);
    std::vector<bool> found;
    for (size_t layer = 0; layer < decoder.layers.size(); ++layer) found.push_back(dense_block(decoder, layer));
    return found;
  };
  EXPECT_THAT(dense(), testing::ElementsAre(true, false, false));
  config["first_k_dense_replace"] = 2;
  EXPECT_THAT(dense(), testing::ElementsAre(true, true, false));
  config.erase("first_k_dense_replace");
  EXPECT_THAT(dense(), testing::ElementsAre(true, false, false));  // transformers' default
  config["mlp_layer_types"] = {"dense", "sparse", "dense"};
  EXPECT_THAT(dense(), testing::ElementsAre(true, false, true));
}

TEST(DeepseekV3Config, NamesWhatIsMissingOrImpossible) {
  std::vector<Refusal> refusals{
      {"scoring_func", "softmax", "scoring_func must be sigmoid"},
      {"topk_method", "group_limited_greedy", "topk_method must be noaux_tc"},
      {"moe_layer_freq", 2, "moe_layer_freq must be 1"},
      {"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}, "rope_type 'dynamic'"},
      {"partial_rotary_factor", 0.5, "partial_rotary_factor must be 1"},
      {"num_key_value_heads", 2, "num_key_value_heads must be num_attention_heads"},
      {"v_head_dim", 21, "v_head_dim"},
      {"attention_dropout", 0.1, "attention_dropout"},
      {"n_group", 5, "n_group must divide"},
      {"n_group", 12, "groups of one expert"},
      {"topk_group", 5, "topk_group is more than n_group"},
      {"mlp_layer_types", {"dense", "sparse", "mixed"}, "mlp_layer_types: 'mixed'"},
      {"mlp_layer_types", {"dense"}, "mlp_layer_types has 1 entries for 3 layers"},
      {"mlp_layer_types", {"dense", "dense", "sparse"}, "mlp_layer_types and first_k_dense_replace"},
      {"hidden_act", "gelu", "hidden_act"},
      {"quantization_config", {{"quant_method", "compressed-tensors"}}, "quant_method 'compressed-tensors'"}};
  for (const char* key : {"n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "routed_scaling_factor",
                          "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size"})
    refusals.push_back({key, nullptr, std::string("missing key '") + key + "'"});
  for (const char* key : {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"})
    refusals.push_back({key, 0, std::string(key) + " is 0"});
  expect_refusals(GoldenHeaders("deepseek_v3-fp32").config.json(), refusals, read_v3);
}

TEST(ModelConfigs, GptOssTakesItsYarnWhereConfigSaysNone) {
  const Json good = GoldenHeaders("gpt_oss-fp32").config.json();
  const auto rope = [](const Json& config) {
    const Decoder decoder = describe_gpt_oss(HfConfig(config, "config.json"), DtypeChoice::kAuto);
    return dynamic_cast<const Gqa&>(*decoder.layers[0].mixer).rope;
  };
  const RopeSpec said = rope(good);
  EXPECT_TRUE(said.yarn);
  EXPECT_FALSE(said.truncate);
  EXPECT_NEAR(said.attention_factor, 0.1 * std::log(32.0) + 1, 1e-12);
  Json config = good;
  config["rope_scaling"] = nullptr;
  EXPECT_EQ(rope(config), said);
  config.erase("rope_scaling");
  EXPECT_EQ(rope(config), said);
  config.erase("rope_theta");
  EXPECT_EQ(rope(config), said);
  config["rope_scaling"] = {{"rope_type", "default"}};
  EXPECT_FALSE(rope(config).yarn);
}

TEST(ModelConfigs, WindowsAreThoseOfTheirLayers) {
  const auto windows = [](const Decoder& decoder) {
    std::vector<int64_t> all;
    for (const DecoderLayer& layer : decoder.layers) all.push_back(dynamic_cast<const Gqa&>(*layer.mixer).window);
    return all;
  };
  Json config = GoldenHeaders("gpt_oss-fp32").config.json();
  const auto gpt_oss = [&] { return describe_gpt_oss(HfConfig(config, "config.json"), DtypeChoice::kAuto); };
  EXPECT_EQ(windows(gpt_oss()), (std::vector<int64_t>{7, 0, 7, 0}));
  config.erase("layer_types");
  EXPECT_EQ(windows(gpt_oss()), (std::vector<int64_t>{7, 0, 7, 0}));
  config["layer_types"] = {"full_attention", "full_attention", "full_attention", "sliding_attention"};
  config.erase("sliding_window");
  EXPECT_EQ(windows(gpt_oss()), (std::vector<int64_t>{0, 0, 0, 128}));
  config["sliding_window"] = nullptr;
  EXPECT_THAT(error_of(gpt_oss), HasSubstr("sliding_window is null"));
  config["layer_types"] = {"full_attention"};
  EXPECT_THAT(error_of(gpt_oss), HasSubstr("layer_types must name a type for each layer"));
  config["layer_types"][0] = "chunked_attention";
  EXPECT_THAT(error_of(gpt_oss), HasSubstr("layer_types: only"));

  Json mixtral = GoldenHeaders("mixtral-fp32").config.json();
  mixtral["sliding_window"] = 4;
  for (const int64_t window : windows(describe_mixtral(HfConfig(mixtral, "config.json"), DtypeChoice::kAuto)))
    EXPECT_EQ(window, 4);
  Json qwen3 = GoldenHeaders("qwen3_moe-fp32").config.json();
  qwen3["sliding_window"] = 4;
  const auto of_qwen3 = [&] {
    return windows(describe_qwen3_moe(HfConfig(qwen3, "config.json"), DtypeChoice::kAuto)).front();
  };
  qwen3["use_sliding_window"] = false;
  EXPECT_EQ(of_qwen3(), 0);
  qwen3["use_sliding_window"] = true;
  EXPECT_EQ(of_qwen3(), 4);
}

TEST(ModelConfigs, GptOssRefusesWhatItDoesNotCompute) {
  const auto error_with = [](const char* key, const Json& value) {
    Json config = GoldenHeaders("gpt_oss-mxfp4").config.json();
    config[key] = value;
    return error_of([&] { make_layout(HfConfig(config, "config.json")); });
  };
  EXPECT_THAT(error_with("swiglu_limit", 5.0), HasSubstr("swiglu_limit must be 7"));
  EXPECT_THAT(error_with("quantization_config", {{"quant_method", "fp8"}}), HasSubstr("quant_method 'fp8'"));
  EXPECT_EQ(error_with("quantization_config", nullptr), "");
}

// Counts that no model has are named before anything is made by them.
TEST(ModelConfigs, AbsurdCountsAreNamed) {
  const std::set<std::string> not_read{"bos_token_id",           "pad_token_id",
                                       "eos_token_id",           "experts_per_token",
                                       "initial_context_length", "max_position_embeddings",
                                       "max_window_layers",      "full_attention_interval",
                                       "mtp_num_hidden_layers",  "ep_size",
                                       "mtp_transformer_layers", "n_shared_experts",
                                       "num_mtp_modules",        "num_nextn_predict_layers"};
  const std::set<std::string> may_be_large{"num_hash_layers", "rope_theta", "compress_rope_theta"};
  for (const std::string& model : golden_models({"fp32"})) {
    const Json good = GoldenHeaders(model).config.json();
    const bool nested = good.contains("text_config");
    for (const auto& [key, value] : (nested ? good["text_config"] : good).items()) {
      if (!value.is_number_integer() || not_read.contains(key)) continue;
      if (model == "qwen2_moe-fp32" && key == "sliding_window") continue;  // counts with use_sliding_window alone
      std::vector<Json> absurd{int64_t{-1} << 63, "8"};
      if (key != "moe_layer_end_index") absurd.push_back(-1);  // there it means the last layer
      if (!may_be_large.contains(key))
        absurd.insert(absurd.end(),
                      {int64_t{1} << 40, 1'000'000'000'000'000, int64_t{1} << 62, uint64_t{1} << 63, 1e300});
      for (const Json& number : absurd) {
        Json config = good;
        (nested ? config["text_config"] : config)[key] = number;
        EXPECT_THAT(error_of([&] { make_layout(HfConfig(config, "config.json"), DtypeChoice::kFloat32); }),
                    AllOf(HasSubstr("config.json"), HasSubstr(key)))
            << model << " " << key << " " << number;
      }
    }
  }
}

TEST(ModelConfigs, ProductsOfCountsAreBounded) {
  const Json good = GoldenHeaders("qwen3_moe-fp32").config.json();
  const auto error = [&](const Json& changes) {
    Json config = good;
    config.update(changes);
    return error_of(
        [&] { image_specs(*make_layout(HfConfig(config, "config.json"), DtypeChoice::kFloat32), no_checkpoint()); });
  };
  EXPECT_EQ(error(Json::object()), "");
  EXPECT_THAT(error({{"num_hidden_layers", 10'000}, {"num_experts", 65'536}}),
              AllOf(HasSubstr("num_hidden_layers 10000 with num_experts 65536"), HasSubstr("experts in all")));
  EXPECT_THAT(error({{"num_hidden_layers", 4},
                     {"num_experts", 65'536},
                     {"hidden_size", 1 << 20},
                     {"moe_intermediate_size", 1 << 20}}),
              HasSubstr("of weights"));
  EXPECT_THAT(error({{"hidden_size", 1 << 20},
                     {"num_attention_heads", 65'536},
                     {"num_key_value_heads", 65'536},
                     {"head_dim", 1 << 20}}),
              HasSubstr("of weights"));
}

}  // namespace
}  // namespace moraine
