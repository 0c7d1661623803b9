// Qwen3.5-MoE (transformers' modeling_qwen3_5_moe.py, the text class), one decoder layer at a time.
//
// Shape suffixes: T tokens, D hidden, V value heads, W value width.
#pragma once

#include "models/model.h"
#include "models/qwen3_5_moe/layout.h"

namespace moraine::qwen3_5_moe {

class Qwen3_5MoeModel : public Model {
 public:
  explicit Qwen3_5MoeModel(Config config);

  const ModelLayout& layout() const override { return layout_; }

  ForwardContext prepare(const Batch& batch) const override;
  at::Tensor embed(const ImageView& root, const Batch& batch) const override;
  at::Tensor forward_layer(int64_t layer, const ImageView& dense, const ImageView& experts, const LayerAdapter& adapter,
                           const at::Tensor& hidden, const ForwardContext& context, LayerRecord& record) const override;
  at::Tensor final_norm(const ImageView& root, const at::Tensor& hidden) const override;
  at::Tensor head_weight_VD(const ImageView& root) const override;

  // Parts of a layer, each from what comes out of the norm before it. `cache` is null unless generating.
  at::Tensor self_attn(const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD,
                       const ForwardContext& context, LayerCache* cache) const;
  at::Tensor linear_attn(const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD,
                         const ForwardContext& context, LayerCache* cache) const;
  // The recurrence within linear_attn: what its gated norm takes.
  at::Tensor delta_rule_TVW(const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD,
                            const ForwardContext& context, LayerCache* cache) const;
  at::Tensor sparse_moe(const ImageView& dense, const ImageView& experts, const LayerAdapter& adapter,
                        const at::Tensor& x_TD, const ForwardContext& context, LayerRecord& record) const;

 private:
  Config config_;
  Qwen3_5MoeLayout layout_;
};

}  // namespace moraine::qwen3_5_moe
