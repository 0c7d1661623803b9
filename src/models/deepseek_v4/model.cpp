// Shape suffixes: T tokens, D hidden (or a head's width), N streams or query heads, C columns of a compressor's
// projection, E experts (or compressed entries), K experts per token, R routed rows, I expert width, G groups of heads.
#include "models/deepseek_v4/model.h"

#include <cmath>

#include "models/deepseek_v4/attention.h"
#include "models/deepseek_v4/compressor.h"
#include "models/deepseek_v4/head_norm.h"
#include "models/deepseek_v4/indexer.h"
#include "models/deepseek_v4/rope.h"
#include "models/deepseek_v4/router.h"
#include "models/image_weight.h"
#include "models/output_head.h"
#include "nn/embedding.h"
#include "nn/grouped_linear.h"
#include "nn/norm.h"
#include "tensor/torch_dtype.h"

namespace moraine::deepseek_v4 {

namespace {

at::Tensor linear(const std::string& module, const at::Tensor& x, const LayerScope& scope) {
  return lora_linear(x, weight_of(scope.dense, module + ".weight"), scope.adapter.find(module));
}

StreamWeights stream_weights(const ImageView& dense, const std::string& name) {
  return {dense[name + ".fn"], dense[name + ".base"], dense[name + ".scale"]};
}

CompressorWeights compressor_weights(const ImageView& dense, const std::string& name, double eps) {
  return {dense[name + ".position_bias"], dense[name + ".kv_norm.weight"], eps};
}

}  // namespace

DeepseekV4Model::DeepseekV4Model(Config config)
    : config_(config),
      layout_(config),
      experts_{config.n_routed_experts, config.moe_intermediate_size, config.hidden_size, config.swiglu_limit},
      shared_experts_(shared_experts(config)) {}

at::Tensor DeepseekV4Model::embed(const ImageView& root, const Batch& batch, const LoraPair* lora) const {
  const at::Tensor embedded_TD = token_embedding(root["model.embed_tokens.weight"], batch.input_ids_T, lora);
  return embedded_TD.unsqueeze(1).repeat({1, config_.hc_mult, 1});
}

at::Tensor DeepseekV4Model::forward_layer(const LayerScope& scope, const at::Tensor& hidden) const {
  const ImageView& dense = scope.dense;
  const HyperConnection attn_hc = connect(hidden, stream_weights(dense, "attn_hc"), stream_constants());
  const at::Tensor attn_in = rms_norm(attn_hc.input_TD, dense["input_layernorm.weight"], config_.rms_norm_eps);
  const at::Tensor after_attn = write_back(self_attn(attn_in, scope), hidden, attn_hc);
  const HyperConnection ffn_hc = connect(after_attn, stream_weights(dense, "ffn_hc"), stream_constants());
  const at::Tensor mlp_in = rms_norm(ffn_hc.input_TD, dense["post_attention_layernorm.weight"], config_.rms_norm_eps);
  const at::Tensor mlp_out = sparse_moe(mlp_in, scope) + shared_experts_.forward(mlp_in, scope);
  return write_back(mlp_out, after_attn, ffn_hc);
}

at::Tensor DeepseekV4Model::self_attn(const at::Tensor& x_TD, const LayerScope& scope) const {
  const ImageView& dense = scope.dense;
  const Batch& batch = *scope.pass.batch;
  const int64_t T = x_TD.size(0), heads = config_.num_attention_heads, head_dim = config_.head_dim;
  const LayerType type = config_.layer_types[scope.layer];
  const bool slides = type == LayerType::kSlidingAttention, chooses = type == LayerType::kCompressedSparseAttention;
  const at::ScalarType dtype = torch_dtype(config_.dtype);
  const RopeSpec& rope = slides ? config_.rope_main : config_.rope_compress;
  const Rotation& rotation = scope.pass.once<Rotation>(
      slides ? "main" : "compress", [&] { return make_rotation(batch.position_ids_T, rope, dtype); });
  const at::Tensor q_residual =
      rms_norm(linear("self_attn.q_a_proj", x_TD, scope), dense["self_attn.q_a_norm.weight"], config_.rms_norm_eps);
  at::Tensor q_TND = linear("self_attn.q_b_proj", q_residual, scope).view({T, heads, head_dim});
  q_TND = rotate(head_norm(q_TND, config_.rms_norm_eps), rotation);
  at::Tensor kv_TD =
      rms_norm(linear("self_attn.kv_proj", x_TD, scope), dense["self_attn.kv_norm.weight"], config_.rms_norm_eps);
  kv_TD = rotate(kv_TD, rotation);

  AttentionPattern pattern;
  pattern.cu_seqlens = batch.cu_seqlens;
  pattern.window = config_.sliding_window;
  at::Tensor entries_ED;
  if (!slides) {
    const Windows& windows = scope.pass.once<Windows>(chooses ? "csa" : "hca", [&] {
      return make_windows(batch, config_.compress_rate(type), config_.rope_compress, dtype);
    });
    entries_ED = compress(linear("self_attn.compressor.kv_proj", x_TD, scope),
                          linear("self_attn.compressor.gate_proj", x_TD, scope),
                          compressor_weights(dense, "self_attn.compressor", config_.rms_norm_eps), windows);
    pattern.rate = windows.rate;
    pattern.cu_entries = windows.cu_entries;
    if (chooses && any_choice(pattern.cu_seqlens, windows, config_.index_topk)) {
      pattern.chosen = choose_entries_of(x_TD, q_residual, windows, rotation, scope);
      pattern.first_choosing = first_choosing_token(config_.index_topk, pattern.rate);
    }
  }
  at::Tensor out_TND = sink_attention(q_TND, kv_TD, entries_ED, dense["self_attn.sinks"],
                                      1 / std::sqrt(static_cast<double>(head_dim)), std::move(pattern));
  // Keys are values, so values were rotated: turned back at the token's own place only distances remain.
  out_TND = rotate(out_TND, rotation, Turn::kBack);
  // o_a_proj is block-diagonal: a matrix for each group of heads, every token in each group.
  const int64_t groups = config_.o_groups, width = heads / groups * head_dim;
  const at::Tensor by_group = out_TND.view({T, groups, width}).transpose(0, 1).reshape({groups * T, width});
  const at::Tensor low = grouped_linear(by_group, weight_of(dense, "self_attn.o_a_proj.weight").split_rows(groups),
                                        std::vector<int64_t>(groups, T), nullptr);
  return linear("self_attn.o_b_proj",
                low.view({groups, T, config_.o_lora_rank}).transpose(0, 1).reshape({T, groups * config_.o_lora_rank}),
                scope);
}

const ChosenEntries& DeepseekV4Model::choose_entries_of(const at::Tensor& x_TD, const at::Tensor& q_residual_TD,
                                                        const Windows& windows, const Rotation& rotation,
                                                        const LayerScope& scope) const {
  return scope.record.choices.once<ChosenEntries>("", [&] {
    at::NoGradGuard no_grad;
    const std::string indexer = "self_attn.compressor.indexer";
    const auto frozen = [&](const std::string& module, const at::Tensor& x) {
      return lora_linear(x, weight_of(scope.dense, indexer + "." + module + ".weight"), nullptr);
    };
    const at::Tensor keys_ED = compress(frozen("kv_proj", x_TD), frozen("gate_proj", x_TD),
                                        compressor_weights(scope.dense, indexer, config_.rms_norm_eps), windows);
    at::Tensor queries =
        frozen("q_b_proj", q_residual_TD).view({x_TD.size(0), config_.index_n_heads, config_.index_head_dim});
    queries = rotate(queries, rotation);
    const double factor = 1 / std::sqrt(static_cast<double>(config_.index_n_heads * config_.index_head_dim));
    const at::Tensor weights_TH = frozen("scorer.weights_proj", x_TD).to(at::kFloat) * factor;
    return choose_entries(queries, weights_TH, keys_ED, scope.pass.batch->cu_seqlens, windows, config_.index_topk);
  });
}

at::Tensor DeepseekV4Model::sparse_moe(const at::Tensor& x_TD, const LayerScope& scope) const {
  const Batch& batch = *scope.pass.batch;
  LayerRecord& record = scope.record;
  const bool hashes = config_.mlp_layer_types[scope.layer] == MlpLayerType::kHashMoe;
  const at::Tensor router_logits_TE =
      lora_linear(x_TD, scope.dense["mlp.gate.weight"], scope.adapter.find("mlp.gate.weight"));
  if (!record.chosen_experts_TK.defined()) {
    record.chosen_experts_TK = hashes
                                   ? choose_by_token(batch.input_ids_T, scope.dense["mlp.gate.tid2eid"])
                                   : choose_by_score(router_logits_TE, scope.dense["mlp.gate.e_score_correction_bias"],
                                                     config_.num_experts_per_tok);
    record.dispatch = scope.pass.experts->plan(record.chosen_experts_TK);
    record.expert_counts_E = count_choices(record.chosen_experts_TK, batch.real_T, config_.n_routed_experts);
    record.favoured_counts_E = favoured_counts(router_logits_TE, scope);
  }
  if (scope.pass.balance && !hashes)
    record.probability_sums_E = sum_of_real_rows(at::softmax(router_logits_TE, -1, at::kFloat), batch.real_T);
  return experts_(x_TD, routing_weights(router_logits_TE, record.chosen_experts_TK, config_.routed_scaling_factor),
                  scope);
}

// transformers' auxiliary loss knows neither the bias nor tables: it counts the highest probabilities, in layers where
// routers choose.
at::Tensor DeepseekV4Model::favoured_counts(const at::Tensor& logits_TE, const LayerScope& scope) const {
  if (config_.mlp_layer_types[scope.layer] == MlpLayerType::kHashMoe)
    return at::zeros({config_.n_routed_experts}, logits_TE.options().dtype(at::kLong));
  return count_favoured(logits_TE, scope.pass.batch->real_T, config_.num_experts_per_tok);
}

at::Tensor DeepseekV4Model::final_norm(const ImageView& root, const at::Tensor& hidden) const {
  const StreamWeights head{root["model.hc_head.hc_fn"], root["model.hc_head.hc_base"], root["model.hc_head.hc_scale"]};
  return rms_norm(collapse_streams(hidden, head, stream_constants()), root["model.norm.weight"], config_.rms_norm_eps);
}

at::Tensor DeepseekV4Model::head_weight_VD(const ImageView& root) const { return root[output_head_slot(root)]; }

std::unique_ptr<Model> make_model(const HfConfig& config, DtypeChoice dtype) {
  return std::make_unique<DeepseekV4Model>(read_config(config, dtype));
}

}  // namespace moraine::deepseek_v4
