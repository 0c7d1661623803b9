#include "models/model.h"

#include "base/error.h"
#include "models/qwen3_moe/model.h"

namespace moraine {

std::unique_ptr<Model> make_model(const HfConfig& config, const std::string& dtype) {
  const std::string architecture = config.architecture();
  if (architecture == "Qwen3MoeForCausalLM") {
    return std::make_unique<qwen3_moe::Qwen3MoeModel>(qwen3_moe::read_config(config, dtype));
  }
  throw input_error(config.where(), "architecture " + architecture + " cannot be trained yet",
                    "architectures that can: Qwen3MoeForCausalLM");
}

}  // namespace moraine
