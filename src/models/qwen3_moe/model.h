// Qwen3-MoE (transformers' modeling_qwen3_moe.py), one decoder layer at a time.
#pragma once

#include "models/model.h"
#include "models/qwen3_moe/layout.h"

namespace moraine::qwen3_moe {

class Qwen3MoeModel : public Model {
 public:
  explicit Qwen3MoeModel(Config config);

  const ModelLayout& layout() const override { return layout_; }

  ForwardContext prepare(const Batch& batch) const override;
  at::Tensor embed(const ImageView& root, const Batch& batch) const override;
  at::Tensor forward_layer(int64_t layer, const ImageView& dense, const ImageView& experts, const LayerAdapter& adapter,
                           const at::Tensor& hidden, const ForwardContext& context, LayerRecord& record) const override;
  at::Tensor final_norm(const ImageView& root, const at::Tensor& hidden) const override;
  at::Tensor head_weight_VD(const ImageView& root) const override;

 private:
  at::Tensor self_attn(int64_t layer, const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD,
                       const ForwardContext& context) const;

  Config config_;
  Qwen3MoeLayout layout_;
};

}  // namespace moraine::qwen3_moe
