// Where DeepSeek-V4's parameters lie in a checkpoint. Parameters are named as transformers names them, files use
// DeepSeek's own names. Linear layers and experts may be quantised: the dtype of each stored weight says which, and it
// stays as it is in the image, with its scales beside it. What is stored in F32 for its precision (hyper-connections,
// sinks, position biases, router bias) stays F32 whatever the compute dtype is.
#pragma once

#include "models/blocks/mlp.h"
#include "models/deepseek_v4/config.h"
#include "models/model_layout.h"

namespace moraine::deepseek_v4 {

class DeepseekV4Layout : public ModelLayout {
 public:
  explicit DeepseekV4Layout(Config config);

  const ModelShape& shape() const override { return shape_; }
  int64_t layer_kind(int64_t layer) const override;
  ImageSpec root_spec(const StoredDtype& stored) const override;
  ImageSpec dense_spec(int64_t layer, const StoredDtype& stored) const override;
  ImageSpec experts_spec(int64_t layer, const StoredDtype& stored) const override;
  const Quantization* quantization() const override { return &config_.stored; }
  std::optional<std::string> why_skipped(const std::string& tensor) const override;
  // Without o_a_proj, which PEFT cannot wrap, and without the indexer, whose choice of entries passes no gradient on.
  std::vector<LoraModule> lora_modules() const override;

 private:
  Config config_;
  ModelShape shape_;
};

// The block that every layer has beside its routed experts.
Mlp shared_experts(const Config& c);

std::unique_ptr<ModelLayout> make_layout(const HfConfig& config, DtypeChoice dtype);

}  // namespace moraine::deepseek_v4
