// DeepSeek-V4 (transformers' modeling_deepseek_v4.py), one decoder layer at a time. `hidden` is [T, N, D]: N = hc_mult streams.
#pragma once

#include "models/deepseek_v4/hyper_connection.h"
#include "models/deepseek_v4/layout.h"
#include "models/model.h"

namespace moraine::deepseek_v4 {

struct BatchContext;

class DeepseekV4Model : public Model {
 public:
  explicit DeepseekV4Model(Config config);

  const ModelLayout& layout() const override { return layout_; }

  // Compressors would have to remember windows that are not complete yet; generating runs the sequence again instead.
  bool has_cache() const override { return false; }
  ForwardContext prepare(const Batch& batch) const override;
  at::Tensor embed(const ImageView& root, const Batch& batch) const override;
  at::Tensor forward_layer(int64_t layer, const ImageView& dense, const ImageView& experts, const LayerAdapter& adapter,
                           const at::Tensor& hidden, const ForwardContext& context, LayerRecord& record) const override;
  // Collapses the streams.
  at::Tensor final_norm(const ImageView& root, const at::Tensor& hidden) const override;
  at::Tensor head_weight_VD(const ImageView& root) const override;

 private:
  at::Tensor self_attn(int64_t layer, const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD,
                       const ForwardContext& context, LayerRecord& record) const;
  std::vector<at::Tensor> choose_entries_of(const ImageView& dense, const at::Tensor& x_TD, const at::Tensor& q_residual_TD,
                                            const BatchContext& batch, const std::vector<int64_t>& cu_seqlens) const;
  at::Tensor sparse_moe(int64_t layer, const ImageView& dense, const ImageView& experts, const LayerAdapter& adapter,
                        const at::Tensor& x_TD, const ForwardContext& context, LayerRecord& record) const;
  at::Tensor favoured_counts(int64_t layer, const at::Tensor& logits_TE, const ForwardContext& context) const;
  at::Tensor shared_experts(const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD) const;
  StreamConstants stream_constants() const { return {config_.rms_norm_eps, config_.hc_eps, config_.hc_sinkhorn_iters}; }

  Config config_;
  DeepseekV4Layout layout_;
};

}  // namespace moraine::deepseek_v4
