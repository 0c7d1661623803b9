#include "models/model.h"

#include "base/error.h"
#include "models/deepseek_v4/model.h"
#include "models/qwen3_5_moe/model.h"
#include "models/qwen3_moe/model.h"

namespace moraine {

std::unique_ptr<Model> make_model(const HfConfig& config, const std::string& dtype) {
  const std::string architecture = config.architecture();
  if (architecture == "Qwen3MoeForCausalLM") {
    return std::make_unique<qwen3_moe::Qwen3MoeModel>(qwen3_moe::read_config(config, dtype));
  }
  if (architecture == "Qwen3_5MoeForConditionalGeneration" || architecture == "Qwen3_5MoeForCausalLM") {
    return std::make_unique<qwen3_5_moe::Qwen3_5MoeModel>(qwen3_5_moe::read_config(config, dtype));
  }
  if (architecture == "DeepseekV4ForCausalLM") {
    return std::make_unique<deepseek_v4::DeepseekV4Model>(deepseek_v4::read_config(config, dtype));
  }
  make_layout(config, dtype);  // throws: it knows no others
  MORAINE_ASSERT(false, "every architecture that has a layout has mathematics");
}

}  // namespace moraine
