// Where Qwen3-MoE's parameters lie in a checkpoint (hub: a tensor per expert; also transformers' fused 3-D tensors).
#pragma once

#include "models/model_layout.h"
#include "models/qwen3_moe/config.h"

namespace moraine::qwen3_moe {

class Qwen3MoeLayout : public ModelLayout {
 public:
  explicit Qwen3MoeLayout(Config config);

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

}  // namespace moraine::qwen3_moe
