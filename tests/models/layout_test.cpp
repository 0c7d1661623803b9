// Layouts against the headers of reference checkpoints and the names of transformers.
#include "models/model_layout.h"

#include <gmock/gmock.h>

#include <map>
#include <set>

#include "base/temp_folder.h"
#include "checkpoint/check_checkpoint.h"
#include "models/golden_headers.h"
#include "models/model.h"
#include "models/output_head.h"
#include "models/param_specs.h"

namespace moraine {
namespace {

using namespace testing_support;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<SkippedTensor> check(const GoldenHeaders& model, DtypeChoice dtype = DtypeChoice::kAuto) {
  const auto layout = model.layout(dtype);
  const CheckpointIndex index = model.index();
  return check_checkpoint(image_specs(*layout, stored_in(index)), index,
                          [&](const std::string& tensor) { return layout->why_skipped(tensor); });
}

std::vector<ImageSpec> specs_of(const GoldenHeaders& model, DtypeChoice dtype = DtypeChoice::kAuto) {
  const CheckpointIndex index = model.index();
  return image_specs(*model.layout(dtype), stored_in(index));
}

// Moves the tensors that begin with `from` to `to`.
void rename_prefix(Json& tensors, const std::string& from, const std::string& to) {
  Json renamed;
  for (const auto& [name, tensor] : tensors.items())
    renamed[name.starts_with(from) ? to + name.substr(from.size()) : name] = tensor;
  tensors = std::move(renamed);
}

class GoldenLayout : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, GoldenLayout, testing::ValuesIn(golden_models()),
                         [](const auto& info) { return test_name(info.param); });

// Layers that predict further tokens: under names of their own, or after the last of the model's.
bool is_of_prediction(const std::string& tensor, const HfConfig& config) {
  if (tensor.starts_with("mtp.") || tensor.starts_with("model.mtp_")) return true;
  const std::string layers = "model.layers.";
  return tensor.starts_with(layers) && config.has("num_hidden_layers") &&
         std::stoll(tensor.substr(layers.size())) >= config.integer("num_hidden_layers");
}

TEST_P(GoldenLayout, ExplainsEveryTensor) {
  const GoldenHeaders model(GetParam());
  for (DtypeChoice dtype : {DtypeChoice::kAuto, DtypeChoice::kFloat32, DtypeChoice::kBFloat16}) {
    std::set<std::string> skipped, expected;
    for (const SkippedTensor& tensor : check(model, dtype)) {
      skipped.insert(tensor.tensor);
      EXPECT_EQ(tensor.reason,
                is_of_prediction(tensor.tensor, model.config) ? "multi-token prediction" : "vision tower");
    }
    for (const auto& [name, tensor] : model.tensors.items())
      if (is_of_prediction(name, model.config) || name.starts_with("model.visual.")) expected.insert(name);
    EXPECT_EQ(skipped, expected);
    const std::vector<std::string> with_more{"qwen3_5_moe", "deepseek_", "glm", "qwen3_next", "ernie4_5_moe"};
    const bool without = GetParam() == "deepseek_v3-fp8";
    EXPECT_EQ(!expected.empty(),
              !without && std::any_of(with_more.begin(), with_more.end(),
                                      [&](const std::string& family) { return GetParam().starts_with(family); }));
  }
}

// The shape that a parameter stands for in transformers: FP4 is two elements a byte.
std::vector<int64_t> logical_shape(const ParamSpec& param) {
  std::vector<int64_t> shape = param.shape;
  if (param.quant) shape.back() *= param.quant->per_stored();
  if (param.quant && param.stored_as) std::swap(shape[1], shape[2]);  // MXFP4's matrices are [out, in], plain ones not
  return shape;
}

TEST_P(GoldenLayout, NamesParametersAsTransformersDoes) {
  const GoldenHeaders model(GetParam());
  std::map<std::string, std::vector<int64_t>> ours, theirs;
  for (const ImageSpec& image : specs_of(model))
    for (const ParamSpec& param : image.params)
      if (!param.is_scales) ours[full_name(image, param)] = logical_shape(param);
  const Json parameters = read_json_file(headers_folder(GetParam()) / "parameters.json");
  for (const auto& [name, shape] : parameters.items()) theirs[name] = shape.get<std::vector<int64_t>>();
  if (!ours.contains("lm_head.weight")) theirs.erase("lm_head.weight");  // tied: the embedding under another name
  EXPECT_EQ(ours, theirs);
}

TEST_P(GoldenLayout, AssumesItsOwnCheckpoint) {
  const GoldenHeaders model(GetParam());
  const auto layout = model.layout();
  const CheckpointIndex actual = model.index(), assumed = assumed_index(image_specs(*layout, no_checkpoint()));
  for (const auto& [name, tensor] : assumed.tensors) {
    ASSERT_TRUE(actual.find(name)) << name;
    EXPECT_EQ(tensor.entry.shape, actual.find(name)->entry.shape) << name;
    // Qwen3.5 stores two small vectors in F32 which are computed in bfloat16.
    if (name.ends_with("linear_attn.A_log") || name.ends_with("linear_attn.norm.weight")) continue;
    EXPECT_EQ(tensor.entry.dtype, actual.find(name)->entry.dtype) << name;
  }
}

TEST_P(GoldenLayout, NamesATensorOfAnotherShape) {
  for (const char* end : {"o_proj.weight", "wo_b.weight", "experts.gate_up_proj", "experts.3.down_proj.weight",
                          "experts.3.w2.weight", "conv1d.weight", "compressor.ape", "tid2eid", "w1.scale"}) {
    GoldenHeaders model(GetParam());
    for (auto& [name, tensor] : model.tensors.items()) {
      if (!name.ends_with(end) || is_of_prediction(name, model.config)) continue;
      tensor["shape"][0] = tensor["shape"][0].get<int64_t>() + 1;
      EXPECT_THAT(error_of([&] { check(model); }), HasSubstr("tensor " + name + " has shape ["));
      break;
    }
  }
}

TEST_P(GoldenLayout, NamesAMissingAndAnUnexpectedTensor) {
  const GoldenHeaders whole(GetParam());
  // One tensor of each kind, in the layer that has most kinds.
  for (const auto& [name, tensor] : whole.tensors.items()) {
    if (is_of_prediction(name, whole.config) || name.starts_with("model.visual.")) continue;
    if (name.find("layers.2.") == name.npos) continue;
    GoldenHeaders model(GetParam());
    model.tensors.erase(name);
    EXPECT_THAT(error_of([&] { check(model); }), HasSubstr("missing from the checkpoint")) << name;
  }
  GoldenHeaders more(GetParam());
  more.tensors["layers.0.attn.surprise"] = {{"dtype", "F32"}, {"shape", {1}}};
  EXPECT_THAT(error_of([&] { check(more); }), HasSubstr("the first is layers.0.attn.surprise"));
}

TEST(Qwen3_5MoeLayout, ReadsEitherPrefixAndExpertsOneByOne) {
  GoldenHeaders model("qwen3_5_moe-bf16");
  rename_prefix(model.tensors, "model.language_model.", "model.");
  EXPECT_EQ(check(model).size(), check(GoldenHeaders("qwen3_5_moe-bf16")).size());

  Json each;
  for (const auto& [name, tensor] : model.tensors.items()) {
    const std::string::size_type fused = name.rfind("gate_up_proj"), down = name.rfind("experts.down_proj");
    const int64_t rows = tensor["shape"].size() == 3 ? tensor["shape"][1].get<int64_t>() : 0;
    if (fused == name.npos && down == name.npos) {
      each[name] = tensor;
      continue;
    }
    const std::string prefix = name.substr(0, name.rfind("experts.") + 8);
    for (int64_t e = 0; e < tensor["shape"][0].get<int64_t>(); ++e) {
      const auto add = [&](const char* projection, int64_t r) {
        each[prefix + std::to_string(e) + "." + projection + ".weight"] = {{"dtype", "BF16"},
                                                                           {"shape", {r, tensor["shape"][2]}}};
      };
      if (down != name.npos) add("down_proj", rows);
      if (fused != name.npos) add("gate_proj", rows / 2), add("up_proj", rows / 2);
    }
  }
  model.tensors = each;
  check(model);
  const ParamSpec experts = find_param(specs_of(model), "model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_THAT(experts.shape, ElementsAre(8, 80, 64));
  ASSERT_EQ(experts.sources.size(), 16u);
  EXPECT_EQ(experts.sources[3].name, "model.layers.0.mlp.experts.1.up_proj.weight");
  EXPECT_EQ(experts.sources[3].first_element, 3 * 40 * 64);
}

TEST(Qwen3_5MoeLayout, TextClassAloneAndTiedHead) {
  GoldenHeaders model("qwen3_5_moe-fp32");
  Json text = model.config.json()["text_config"];
  text["architectures"] = {"Qwen3_5MoeForCausalLM"};
  text["tie_word_embeddings"] = true;
  const auto layout = make_layout(HfConfig(text, "config.json"));
  const auto specs = image_specs(*layout, no_checkpoint());
  EXPECT_EQ(find_param(specs, "model.norm.weight").sources[0].name, "model.norm.weight");
  EXPECT_EQ(specs[0].params.size(), 2u);
  EXPECT_FALSE(layout->why_skipped("model.layers.0.mlp.gate.bias"));
}

// transformers ties the two only where no head is stored, or an equal one.
TEST(OutputHead, OneThatIsStoredIsTheHeadThoughConfigSaysTied) {
  for (const std::string& name : golden_models({"fp32"})) {
    GoldenHeaders model(name);
    const std::string head = name.starts_with("deepseek_v4") ? "head.weight" : "lm_head.weight";
    if (!model.tensors.contains(head)) continue;  // tied
    const auto warning = [&] {
      testing::internal::CaptureStderr();
      warn_of_stored_head(model.config, specs_of(model).front());
      return testing::internal::GetCapturedStderr();
    };
    EXPECT_EQ(warning(), "");
    Json config = model.config.json();
    config["tie_word_embeddings"] = true;
    if (config.contains("text_config")) config["text_config"]["tie_word_embeddings"] = true;
    model.config = HfConfig(config, "config.json");
    EXPECT_EQ(find_param(specs_of(model), "lm_head.weight").sources[0].name, head);
    EXPECT_EQ(check(model).size(), check(GoldenHeaders(name)).size());  // it is not left out
    EXPECT_THAT(warning(),
                testing::AllOf(HasSubstr("config.json: tie_word_embeddings is true"), HasSubstr("stores " + head)));
    GoldenHeaders other = model;
    other.tensors[head]["shape"][0] = 3;
    EXPECT_THAT(error_of([&] { check(other); }), HasSubstr("tensor " + head + " has shape [3, "));
    model.tensors.erase(head);
    EXPECT_EQ(check(model).size(), check(GoldenHeaders(name)).size());
    EXPECT_EQ(warning(), "");
    const ImageSpec root = specs_of(model).front();
    for (const ParamSpec& param : root.params) EXPECT_NE(param.name, "lm_head.weight");
  }
}

TEST(DeepseekV4Layout, QuantisedWeightsStayAsTheyAreStored) {
  for (DtypeChoice dtype : {DtypeChoice::kBFloat16, DtypeChoice::kFloat32}) {
    const auto specs = specs_of(GoldenHeaders("deepseek_v4-fp8fp4"), dtype);
    const auto dtype_of = [&](const std::string& name) { return find_param(specs, "model.layers.1." + name).dtype; };
    EXPECT_EQ(dtype_of("self_attn.q_a_proj.weight"), DType::kF8E4M3);
    EXPECT_EQ(dtype_of("self_attn.q_a_proj.weight_scale"), DType::kF8E8M0);
    EXPECT_EQ(dtype_of("mlp.experts.gate_up_proj"), DType::kI8);
    EXPECT_EQ(dtype_of("mlp.experts.gate_up_proj_scale"), DType::kF8E8M0);
    const DType compute = dtype == DtypeChoice::kFloat32 ? DType::kF32 : DType::kBF16;
    EXPECT_EQ(dtype_of("input_layernorm.weight"), compute);
    EXPECT_EQ(dtype_of("mlp.gate.weight"), compute);
    EXPECT_EQ(dtype_of("self_attn.compressor.kv_proj.weight"), compute);
    for (const char* name :
         {"attn_hc.fn", "ffn_hc.base", "ffn_hc.scale", "self_attn.sinks", "self_attn.compressor.position_bias",
          "self_attn.compressor.indexer.position_bias", "mlp.gate.e_score_correction_bias"})
      EXPECT_EQ(dtype_of(name), DType::kF32) << name;
    EXPECT_EQ(find_param(specs, "model.layers.0.mlp.gate.tid2eid").dtype, DType::kI64);
    EXPECT_EQ(find_param(specs, "model.hc_head.hc_fn").dtype, DType::kF32);
  }
}

TEST(DeepseekV4Layout, ScalesOfAllExpertsFollowTheirWeights) {
  const auto specs = specs_of(GoldenHeaders("deepseek_v4-fp8fp4"));
  const ParamSpec weight = find_param(specs, "model.layers.2.mlp.experts.gate_up_proj");
  const ParamSpec scale = find_param(specs, "model.layers.2.mlp.experts.gate_up_proj_scale");
  EXPECT_THAT(weight.shape, ElementsAre(4, 256, 128));
  EXPECT_THAT(scale.shape, ElementsAre(4, 256, 8));
  EXPECT_EQ(scale.kind, ParamKind::kExperts);
  ASSERT_EQ(scale.sources.size(), weight.sources.size());
  EXPECT_EQ(weight.sources[2].name, "layers.2.ffn.experts.1.w1.weight");
  EXPECT_EQ(scale.sources[2].name, "layers.2.ffn.experts.1.w1.scale");
  EXPECT_EQ(scale.sources[3].name, "layers.2.ffn.experts.1.w3.scale");
  EXPECT_EQ(scale.sources[3].first_element, 3 * 128 * 8);
  EXPECT_EQ(find_param(specs, "model.layers.2.mlp.experts.down_proj_scale").sources[1].name,
            "layers.2.ffn.experts.1.w2.scale");
}

// V4-Flash-Base: experts in FP8 too, scales in F32 under the same names. The headers decide, not config.json.
TEST(DeepseekV4Layout, ReadsFp8ExpertsWithF32Scales) {
  GoldenHeaders model("deepseek_v4-fp8fp4");
  for (auto& [name, tensor] : model.tensors.items()) {
    if (name.ends_with(".scale")) tensor["dtype"] = "F32";
    if (name.find(".experts.") == name.npos) continue;
    Json& shape = tensor["shape"];
    if (name.ends_with(".weight")) {
      tensor["dtype"] = "F8_E4M3";
      shape[1] = 2 * shape[1].get<int64_t>();
    } else {
      shape = {shape[0].get<int64_t>() / 128, shape[1].get<int64_t>() * 32 / 128};
    }
  }
  check(model);
  const auto specs = specs_of(model);
  EXPECT_EQ(find_param(specs, "model.layers.0.mlp.experts.down_proj").dtype, DType::kF8E4M3);
  const ParamSpec scale = find_param(specs, "model.layers.0.mlp.experts.gate_up_proj_scale");
  EXPECT_EQ(scale.dtype, DType::kF32);
  EXPECT_THAT(scale.shape, ElementsAre(4, 2, 2));
  EXPECT_EQ(find_param(specs, "model.layers.0.self_attn.kv_proj.weight_scale").dtype, DType::kF32);
}

TEST(DeepseekV4Layout, RefusesCutOffBlocks) {
  Json config = GoldenHeaders("deepseek_v4-fp8fp4").config.json();
  config["o_lora_rank"] = 96;  // 192 rows in blocks of 128
  const auto layout = make_layout(HfConfig(config, "config.json"));
  EXPECT_THAT(error_of([&] { layout->dense_spec(0, no_checkpoint()); }),
              HasSubstr("layers.0.attn.wo_a: 192 rows cannot be cut into blocks of 128"));
  config["o_lora_rank"] = 32;  // one block of 64 rows
  EXPECT_EQ(error_of([&] { make_layout(HfConfig(config, "config.json"))->dense_spec(0, no_checkpoint()); }), "");
  config["moe_intermediate_size"] = 48;
  EXPECT_THAT(error_of([&] { make_layout(HfConfig(config, "config.json"))->experts_spec(0, no_checkpoint()); }),
              HasSubstr("layers.0.ffn.experts.0.w2: 48 columns cannot be cut into blocks of 32"));
}

TEST(DeepseekV4Layout, BothFormsOfConfigGiveTheSameParameters) {
  const auto specs = specs_of(GoldenHeaders("deepseek_v4-fp32"), DtypeChoice::kFloat32);
  const auto other = specs_of(GoldenHeaders("deepseek_v4-bf16"), DtypeChoice::kFloat32);
  ASSERT_EQ(specs.size(), other.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    ASSERT_EQ(specs[i].params.size(), other[i].params.size());
    for (size_t k = 0; k < specs[i].params.size(); ++k) {
      EXPECT_EQ(specs[i].params[k].name, other[i].params[k].name);
      EXPECT_EQ(specs[i].params[k].shape, other[i].params[k].shape);
      EXPECT_EQ(specs[i].params[k].dtype, other[i].params[k].dtype);
    }
  }
}

TEST(ModelLayout, KindsOfLayers) {
  const auto kinds = [](const char* name) {
    const auto layout = make_layout(hub_config(name));
    std::vector<int64_t> kinds;
    for (int64_t layer = 0; layer < layout->shape().num_hidden_layers; ++layer)
      kinds.push_back(layout->layer_kind(layer));
    return kinds;
  };
  EXPECT_THAT(kinds("Qwen3-30B-A3B"), testing::Each(0));
  // Three layers of the gated delta rule, then one of full attention.
  const std::vector<int64_t> hybrid = kinds("Qwen3.5-35B-A3B");
  for (size_t layer = 0; layer < hybrid.size(); ++layer) EXPECT_EQ(hybrid[layer], layer % 4 == 3 ? 3 : 0) << layer;
  // Sliding windows twice, then CSA and HCA in turns; the first three choose experts by tables of token ids.
  const std::vector<int64_t> v4 = kinds("DeepSeek-V4-Flash");
  for (size_t layer = 0; layer < v4.size(); ++layer)
    EXPECT_EQ(v4[layer], layer < 2 ? 0 : layer == 2 ? 2 : layer % 2 == 0 ? 4 : 3) << layer;
}

TEST(MakeModel, RefusesOtherArchitectures) {
  const HfConfig dense(Json{{"architectures", {"LlamaForCausalLM"}}}, "config.json");
  EXPECT_THAT(error_of([&] { make_model(dense, DtypeChoice::kAuto); }), HasSubstr("LlamaForCausalLM is not supported"));
}

}  // namespace
}  // namespace moraine
