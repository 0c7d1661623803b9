// DeepSeek-V4 (transformers' modeling_deepseek_v4.py), one decoder layer at a time. `hidden` is [T, N, D]: N = hc_mult
// streams.
#pragma once

#include "models/blocks/moe.h"
#include "models/deepseek_v4/hyper_connection.h"
#include "models/deepseek_v4/layout.h"
#include "models/model.h"

namespace moraine::deepseek_v4 {

struct Rotation;
struct Windows;

// Of each sequence, the entries that its tokens attend to (see AttentionPattern::chosen); kept in LayerRecord::choices.
using ChosenEntries = std::vector<at::Tensor>;

class DeepseekV4Model : public Model {
 public:
  explicit DeepseekV4Model(Config config);

  const ModelLayout& layout() const override { return layout_; }

  // Compressors would have to remember windows that are not complete yet; generating runs the sequence again instead.
  bool has_cache() const override { return false; }
  at::Tensor embed(const ImageView& root, const Batch& batch, const LoraPair* lora) const override;
  at::Tensor forward_layer(const LayerScope& scope, const at::Tensor& hidden) const override;
  // Collapses the streams.
  at::Tensor final_norm(const ImageView& root, const at::Tensor& hidden) const override;
  at::Tensor head_weight_VD(const ImageView& root) const override;

 private:
  at::Tensor self_attn(const at::Tensor& x_TD, const LayerScope& scope) const;
  const ChosenEntries& choose_entries_of(const at::Tensor& x_TD, const at::Tensor& q_residual_TD,
                                         const Windows& windows, const Rotation& rotation,
                                         const LayerScope& scope) const;
  at::Tensor sparse_moe(const at::Tensor& x_TD, const LayerScope& scope) const;
  at::Tensor favoured_counts(const at::Tensor& logits_TE, const LayerScope& scope) const;
  StreamConstants stream_constants() const { return {config_.rms_norm_eps, config_.hc_eps, config_.hc_sinkhorn_iters}; }

  Config config_;
  DeepseekV4Layout layout_;
  Experts experts_;
  Mlp shared_experts_;
};

std::unique_ptr<Model> make_model(const HfConfig& config, DtypeChoice dtype);

}  // namespace moraine::deepseek_v4
