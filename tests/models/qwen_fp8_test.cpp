// The FP8 releases of the Qwen families: what config.json may say, which tensors follow from it, and what is refused of
// the files.
#include "models/quantization.h"

#include <gmock/gmock.h>

#include "base/temp_folder.h"
#include "checkpoint/check_checkpoint.h"
#include "golden.h"
#include "models/golden_headers.h"
#include "models/model_layout.h"
#include "models/param_specs.h"

namespace moraine {
namespace {

using namespace testing_support;
using testing::AllOf;
using testing::HasSubstr;

const Json kRelease = {
    {"quant_method", "fp8"}, {"fmt", "e4m3"}, {"activation_scheme", "dynamic"}, {"weight_block_size", {128, 128}}};

std::optional<Quantization> read(const Json& quantization) {
  return read_fp8_quantization(HfConfig(Json{{"quantization_config", quantization}}, "config.json"));
}

TEST(QwenFp8Config, ReadsTheReleases) {
  EXPECT_FALSE(read_fp8_quantization(HfConfig(Json::object(), "config.json")));
  EXPECT_FALSE(read(nullptr));
  EXPECT_THAT(read(kRelease)->modules_to_not_convert, testing::IsEmpty());
  EXPECT_TRUE(read(Json{{"quant_method", "fp8"}}));
  Json listed = kRelease;
  listed["modules_to_not_convert"] = nullptr;
  EXPECT_THAT(read(listed)->modules_to_not_convert, testing::IsEmpty());
  listed["modules_to_not_convert"] = {"lm_head", "model.layers.0.mlp.gate"};
  EXPECT_THAT(read(listed)->modules_to_not_convert, testing::ElementsAre("lm_head", "model.layers.0.mlp.gate"));
  EXPECT_TRUE(
      read_fp8_quantization(HfConfig(Json{{"text_config", {{"quantization_config", kRelease}}}}, "config.json")));
}

TEST(QwenFp8Config, RefusesOtherWaysByTheirKey) {
  struct Case {
    const char* key;
    Json value;
    const char* named;
  };
  for (const Case& c :
       std::vector<Case>{{"quant_method", "awq", "quant_method 'awq'"},
                         {"quant_method", "gptq", "quant_method 'gptq'"},
                         {"quant_method", "compressed-tensors", "quant_method 'compressed-tensors'"},
                         {"quant_method", "bitsandbytes", "quant_method 'bitsandbytes'"},
                         {"quant_method", "mxfp4", "quant_method 'mxfp4'"},
                         {"quant_method", nullptr, "quant_method ''"},
                         {"fmt", "e5m2", "fmt 'e5m2'"},
                         {"activation_scheme", "static", "activation_scheme 'static'"},
                         {"scale_fmt", "ue4m3", "scale_fmt 'ue4m3'"},
                         {"weight_block_size", nullptr, "weight_block_size null"},
                         {"weight_block_size", {64, 128}, "weight_block_size [64,128]"},
                         {"modules_to_convert", Json::array({"embed_tokens"}), "modules_to_convert"},
                         {"modules_to_not_convert", "lm_head", "modules_to_not_convert"},
                         {"modules_to_not_convert", Json::array({"*.gate"}), "modules_to_not_convert: '*.gate'"}}) {
    Json quantization = kRelease;
    quantization[c.key] = c.value;
    EXPECT_THAT(error_of([&] { read(quantization); }),
                AllOf(HasSubstr("config.json: quantization_config"), HasSubstr(c.named)))
        << c.key;
  }
}

TEST(QwenFp8Config, TakesTheDtypesWholeName) {  // MiniMax-M2's
  Json quantization = kRelease;
  quantization["fmt"] = "float8_e4m3fn";
  EXPECT_TRUE(read(quantization) == read(kRelease));
}

TEST(QwenFp8Config, SparesModulesAsTransformersDoes) {
  const auto of = [](const std::vector<std::string>& spared) {
    Quantization quantization = *read(kRelease);
    quantization.modules_to_not_convert = spared;
    return quantization;
  };
  const auto quantises = [&](const char* entry, const char* module) { return of({entry}).quantises(module); };
  const char* q = "model.layers.1.self_attn.q_proj";
  EXPECT_TRUE(of({}).quantises(q));
  EXPECT_FALSE(quantises("model.layers.1.self_attn.q_proj", q));
  EXPECT_FALSE(quantises("model.layers.1.self_attn", q));
  EXPECT_FALSE(quantises("q_proj", q));
  EXPECT_FALSE(quantises("model\\.layers\\.\\d+\\.self_attn", q));
  EXPECT_TRUE(quantises("self_attn", q));  // neither its beginning nor its end
  EXPECT_TRUE(quantises("layers\\.\\d+", q));
  EXPECT_TRUE(quantises("model.layers.11.self_attn.q_proj", q));
}

class QwenFp8Files : public testing::TestWithParam<const char*> {
 protected:
  QwenFp8Files() : config_(HfConfig::read(folder())), index_(read_checkpoint_index(folder())) {}
  std::filesystem::path folder() const { return golden_folder(GetParam()) / "model"; }
  std::string check(BaseFormat format = BaseFormat::kStored) {
    const auto layout = make_layout(config_);
    return error_of([&] {
      check_checkpoint(image_specs(*layout, stored_in(index_), format), index_,
                       [&](const std::string& t) { return layout->why_skipped(t); });
    });
  }
  // The first tensor that ends with `end` in a layer.
  CheckpointTensor& some(const std::string& end) {
    for (auto& [name, tensor] : index_.tensors)
      if (name.ends_with(end) && name.find("layers.") != name.npos && !name.starts_with("mtp.")) return tensor;
    throw std::runtime_error("no tensor " + end);
  }

  HfConfig config_;
  CheckpointIndex index_;
};
INSTANTIATE_TEST_SUITE_P(, QwenFp8Files, testing::Values("qwen3_moe-fp8", "qwen3_5_moe-fp8"), [](const auto& info) {
  return std::string(info.param).substr(0, std::string(info.param).find('-'));
});

// Quantised or not, shapes of factors too: config.json alone says it.
TEST_P(QwenFp8Files, AreAssumedAsTheyAre) {
  EXPECT_EQ(check(), "");
  EXPECT_EQ(check(BaseFormat::kBFloat16), "");
  const auto layout = make_layout(config_);
  const CheckpointIndex assumed = assumed_index(image_specs(*layout, no_checkpoint()));
  uint64_t skipped = 0;
  for (const auto& [name, tensor] : index_.tensors) skipped += layout->why_skipped(name).has_value();
  EXPECT_EQ(assumed.tensors.size(), index_.tensors.size() - skipped);
  for (const auto& [name, tensor] : assumed.tensors) {
    ASSERT_TRUE(index_.find(name)) << name;
    EXPECT_EQ(tensor.entry.shape, index_.find(name)->entry.shape) << name;
    // Some releases have factors in F32.
    EXPECT_EQ(tensor.entry.dtype, name.ends_with("_scale_inv") ? DType::kBF16 : index_.find(name)->entry.dtype) << name;
  }
}

// Factors are no parameters of the model.
TEST_P(QwenFp8Files, CountTheParametersOfTheModel) {
  Json plain = config_.json();
  plain.erase("quantization_config");
  const auto count = [](const HfConfig& config) {
    uint64_t parameters = 0;
    for (const ImageSpec& image : image_specs(*make_layout(config), no_checkpoint()))
      for (const ParamSpec& param : image.params) parameters += count_parameters(param);
    return parameters;
  };
  EXPECT_EQ(count(config_), count(HfConfig(plain, "config.json")));
}

TEST_P(QwenFp8Files, MissingFactorsAreNamed) {
  for (const char* end : {"self_attn.q_proj.weight_scale_inv", "experts.3.up_proj.weight_scale_inv",
                          "experts.0.down_proj.weight_scale_inv"}) {
    const CheckpointTensor whole = some(end);
    index_.tensors.erase(whole.entry.name);
    for (const BaseFormat format : {BaseFormat::kStored, BaseFormat::kBFloat16})
      EXPECT_THAT(check(format), HasSubstr("tensor " + whole.entry.name + " is missing")) << end;
    index_.tensors[whole.entry.name] = whole;
  }
}

TEST_P(QwenFp8Files, WrongShapesAndDtypesAreNamed) {
  for (const char* end : {"self_attn.q_proj.weight_scale_inv", "experts.2.gate_proj.weight_scale_inv"}) {
    CheckpointTensor& tensor = some(end);
    const CheckpointTensor whole = tensor;
    tensor.entry.shape[0] += 1;
    EXPECT_THAT(check(), HasSubstr("tensor " + whole.entry.name + " has shape ["));
    tensor.entry.shape = {};  // one scale for the tensor
    EXPECT_THAT(check(), HasSubstr("tensor " + whole.entry.name + " has shape []"));
    for (const DType dtype : {DType::kF8E8M0, DType::kI32, DType::kU8}) {
      tensor = whole;
      tensor.entry.dtype = dtype;
      EXPECT_THAT(check(), HasSubstr("tensor " + whole.entry.name + " has dtype " + std::string(dtype_name(dtype))));
    }
    tensor = whole;
    tensor.entry.dtype = whole.entry.dtype == DType::kBF16 ? DType::kF32 : DType::kBF16;  // either will do
    EXPECT_EQ(check(), "");
    tensor = whole;
  }
  // An expert that is not quantised as the others are; a weight in another FP8.
  for (const auto& [end, dtype] :
       {std::pair{"experts.1.up_proj.weight", DType::kBF16}, {"experts.1.down_proj.weight", DType::kF8E5M2}}) {
    CheckpointTensor& tensor = some(end);
    const DType was = std::exchange(tensor.entry.dtype, dtype);
    EXPECT_THAT(check(), HasSubstr("tensor " + tensor.entry.name + " has dtype "));
    tensor.entry.dtype = was;
  }
}

TEST_P(QwenFp8Files, TheHeadersDecideWhereConfigSaysOtherwise) {
  // A layer in bfloat16 that the list does not name.
  CheckpointTensor& weight = some("self_attn.o_proj.weight");
  weight.entry.dtype = DType::kBF16;
  index_.tensors.erase(weight.entry.name + "_scale_inv");
  EXPECT_EQ(check(), "");
  // What the list names, and is FP8 all the same.
  Json json = config_.json();
  json["quantization_config"]["modules_to_not_convert"].push_back("q_proj");
  config_ = HfConfig(json, "config.json");
  EXPECT_EQ(check(), "");
  // Not without a word of FP8.
  json.erase("quantization_config");
  config_ = HfConfig(json, "config.json");
  EXPECT_THAT(check(), HasSubstr("has dtype F8_E4M3, which cannot be used as BF16"));
}

// Qwen3-30B-A3B-FP8: embedding, head, norms and routers in bfloat16.
TEST(QwenFp8Release, HasItsSize) {
  Json json = read_json_file(golden_folder("configs") / "Qwen3-30B-A3B" / "config.json");
  json["quantization_config"] = kRelease;
  json["quantization_config"]["modules_to_not_convert"] = Json::array({"lm_head"});
  const auto specs = image_specs(*make_layout(HfConfig(json, "config.json")), no_checkpoint());
  const CheckpointIndex index = assumed_index(specs);
  EXPECT_NEAR(index.total_bytes() / 1e9, 31.18, 0.01);
  EXPECT_EQ(index.tensors.size(), 18867u + 48 * (4 + 128 * 3));
}

}  // namespace
}  // namespace moraine
