// The fields of a DeepSeek-V4 config.json that change the mathematics.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/hf_config.h"
#include "formats/dtype.h"
#include "models/quantization.h"
#include "nn/rope.h"

namespace moraine::deepseek_v4 {

// Every layer attends to a sliding window; two types also attend to compressed keys of all that came before.
enum class LayerType {
  kSlidingAttention,
  kCompressedSparseAttention,   // CSA: an indexer picks index_topk compressed entries
  kHeavilyCompressedAttention,  // HCA: all entries of a coarser compression
};
enum class MlpLayerType {
  kHashMoe,  // a table says which experts a token id goes to
  kMoe,      // the router does
};

struct Config {
  int64_t vocab_size, hidden_size, num_hidden_layers;
  std::vector<LayerType> layer_types;         // one per layer
  std::vector<MlpLayerType> mlp_layer_types;  // one per layer
  double rms_norm_eps;
  // Attention: low-rank queries, one head that is key and value at once, a sink for each head, an output projection of
  // o_groups blocks.
  int64_t num_attention_heads, head_dim, q_lora_rank, o_groups, o_lora_rank, sliding_window;
  // RoPE over the last `dim` dims of a head (of the indexer's heads too), in interleaved pairs.
  RopeSpec rope_main;      // sliding layers
  RopeSpec rope_compress;  // CSA and HCA layers: their own queries and keys as well as their compressor's and indexer's
  int64_t compress_rate_csa, compress_rate_hca;  // tokens a compressed entry stands for
  int64_t index_n_heads, index_head_dim, index_topk;
  // Hyper-connections: hc_mult residual streams.
  int64_t hc_mult, hc_sinkhorn_iters;
  double hc_eps;
  // Experts. The shared expert is as wide as a routed one. norm_topk_prob and n_shared_experts change nothing.
  int64_t n_routed_experts, num_experts_per_tok, moe_intermediate_size;
  double routed_scaling_factor, swiglu_limit;
  bool tie_word_embeddings;
  DType dtype;  // compute dtype
  Quantization stored;

  // Tokens an entry of a compressed layer type stands for.
  int64_t compress_rate(LayerType type) const {
    return type == LayerType::kCompressedSparseAttention ? compress_rate_csa : compress_rate_hca;
  }

  friend bool operator==(const Config&, const Config&) = default;
};

// `dtype`: auto | bfloat16 | float32. Reads both forms: the hub's (compress_ratios, with entries for multi-token
// prediction at the end; num_hash_layers; qk_rope_head_dim; rope_scaling) and transformers' (layer_types,
// mlp_layer_types, compress_rates, partial_rotary_factor, rope_parameters); where both are given, transformers' wins.
// Throws an input error that names the key for what is missing, impossible or not supported.
Config read_config(const HfConfig& config, DtypeChoice dtype);

}  // namespace moraine::deepseek_v4
