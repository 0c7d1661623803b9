#include "models/registry.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "models/deepseek_v4/model.h"
#include "models/families.h"

namespace moraine {
namespace {

template <Decoder (*kDescribe)(const HfConfig&, DtypeChoice)>
Family decoder_family(std::string name, std::vector<std::string> architectures) {
  return {std::move(name), std::move(architectures),
          [](const HfConfig& config, DtypeChoice dtype) { return make_decoder_layout(kDescribe(config, dtype)); },
          [](const HfConfig& config, DtypeChoice dtype) { return make_decoder_model(kDescribe(config, dtype)); }};
}

}  // namespace

const std::vector<Family>& families() {
  static const std::vector<Family> rows{
      decoder_family<describe_qwen3_moe>("Qwen3-MoE", {"Qwen3MoeForCausalLM"}),
      decoder_family<describe_qwen3_5_moe>("Qwen3.5-MoE",
                                           {"Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"}),
      {"DeepSeek-V4", {"DeepseekV4ForCausalLM"}, deepseek_v4::make_layout, deepseek_v4::make_model},
      decoder_family<describe_mixtral>("Mixtral", {"MixtralForCausalLM"}),
      decoder_family<describe_olmoe>("OLMoE", {"OlmoeForCausalLM"}),
      decoder_family<describe_deepseek_v3>("DeepSeek-V3", {"DeepseekV3ForCausalLM"}),
      decoder_family<describe_glm4_moe>("GLM-4.5", {"Glm4MoeForCausalLM"}),
      decoder_family<describe_glm4_moe_lite>("GLM-4.7-Flash", {"Glm4MoeLiteForCausalLM"}),
      decoder_family<describe_dots1>("dots.llm1", {"Dots1ForCausalLM"}),
      decoder_family<describe_solar_open>("Solar-Open", {"SolarOpenForCausalLM"}),
      decoder_family<describe_minimax_m2>("MiniMax-M2", {"MiniMaxM2ForCausalLM"}),
      decoder_family<describe_qwen3_next>("Qwen3-Next", {"Qwen3NextForCausalLM"}),
      decoder_family<describe_qwen2_moe>("Qwen2-MoE", {"Qwen2MoeForCausalLM"}),
      decoder_family<describe_ernie4_5_moe>("ERNIE-4.5-MoE", {"Ernie4_5_MoeForCausalLM"}),
  };
  return rows;
}

const Family& family_of(const HfConfig& config) {
  const std::string architecture = config.architecture();
  std::vector<std::string> known;
  for (const Family& family : families()) {
    for (const std::string& name : family.architectures) {
      if (name == architecture) return family;
      known.push_back(name);
    }
  }
  throw input_error(config.where(), "architecture " + architecture + " is not supported",
                    fmt::format("supported Mixture-of-Experts architectures: {}", fmt::join(known, ", ")));
}

std::unique_ptr<ModelLayout> make_layout(const HfConfig& config, DtypeChoice dtype) {
  return family_of(config).make_layout(config, dtype);
}

std::unique_ptr<Model> make_model(const HfConfig& config, DtypeChoice dtype) {
  return family_of(config).make_model(config, dtype);
}

}  // namespace moraine
