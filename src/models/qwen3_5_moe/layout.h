// Where Qwen3.5-MoE's parameters lie in a checkpoint. Parameters are named as transformers' text class names them
// (Qwen3_5MoeForCausalLM); files say "model.language_model." (multimodal) or "model.", with experts fused (the hub) or a
// tensor each.
#pragma once

#include "models/model_layout.h"
#include "models/qwen3_5_moe/config.h"

namespace moraine::qwen3_5_moe {

class Qwen3_5MoeLayout : public ModelLayout {
 public:
  explicit Qwen3_5MoeLayout(Config config);

  const ModelShape& shape() const override { return shape_; }
  ImageSpec root_spec(const StoredDtype& stored) const override;
  ImageSpec dense_spec(int64_t layer, const StoredDtype& stored) const override;
  ImageSpec experts_spec(int64_t layer, const StoredDtype& stored) const override;
  std::optional<std::string> why_skipped(const std::string& tensor) const override;
  std::vector<LoraModule> lora_modules() const override;

 private:
  Config config_;
  ModelShape shape_;
};

}  // namespace moraine::qwen3_5_moe
