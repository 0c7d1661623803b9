#include "models/deepseek_v4/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "models/config_fields.h"

namespace moraine::deepseek_v4 {
namespace {

LayerType layer_type_of_ratio(const HfConfig& config, int64_t ratio) {
  // The ratio names the type; how many tokens are compressed is said by compress_rates.
  if (ratio == 0) return LayerType::kSlidingAttention;
  if (ratio == 4) return LayerType::kCompressedSparseAttention;
  require(config, ratio == 128, fmt::format("compress_ratios: {} is none of 0, 4 and 128", ratio));
  return LayerType::kHeavilyCompressedAttention;
}

LayerType layer_type_of_name(const HfConfig& config, const std::string& name) {
  if (name == "sliding_attention") return LayerType::kSlidingAttention;
  if (name == "compressed_sparse_attention") return LayerType::kCompressedSparseAttention;
  require(config, name == "heavily_compressed_attention",
          fmt::format("layer_types: {} is not a layer type of DeepSeek-V4", quote_text(name)));
  return LayerType::kHeavilyCompressedAttention;
}

// Entries beyond the layers describe multi-token prediction, which is not trained.
template <typename T>
void keep_layers(const HfConfig& config, const char* key, std::vector<T>& entries, int64_t num_hidden_layers) {
  require(config, entries.size() >= static_cast<size_t>(num_hidden_layers),
          fmt::format("{} has {} entries, num_hidden_layers is {}", key, entries.size(), num_hidden_layers));
  entries.resize(num_hidden_layers);
}

std::vector<LayerType> read_layer_types(const HfConfig& config, int64_t num_hidden_layers) {
  std::vector<LayerType> types;
  if (config.has("layer_types")) {
    for (const std::string& name : config.texts("layer_types")) types.push_back(layer_type_of_name(config, name));
    keep_layers(config, "layer_types", types, num_hidden_layers);
    return types;
  }
  require(config, config.has("compress_ratios"), "missing key 'compress_ratios' (or 'layer_types')");
  for (int64_t ratio : config.integers("compress_ratios")) types.push_back(layer_type_of_ratio(config, ratio));
  keep_layers(config, "compress_ratios", types, num_hidden_layers);
  return types;
}

std::vector<MlpLayerType> read_mlp_layer_types(const HfConfig& config, int64_t num_hidden_layers) {
  std::vector<MlpLayerType> types;
  if (config.has("mlp_layer_types")) {
    for (const std::string& name : config.texts("mlp_layer_types")) {
      require(config, name == "hash_moe" || name == "moe",
              fmt::format("mlp_layer_types: {} is neither hash_moe nor moe", quote_text(name)));
      types.push_back(name == "moe" ? MlpLayerType::kMoe : MlpLayerType::kHashMoe);
    }
    keep_layers(config, "mlp_layer_types", types, num_hidden_layers);
    return types;
  }
  const int64_t hashed = config.integer("num_hash_layers");
  require(config, hashed >= 0, fmt::format("num_hash_layers is {}, it must not be negative", hashed));
  types.assign(num_hidden_layers, MlpLayerType::kMoe);
  std::fill_n(types.begin(), std::min(hashed, num_hidden_layers), MlpLayerType::kHashMoe);
  return types;
}

int64_t read_compress_rate(const HfConfig& config, const char* short_key, const char* layer_type, int64_t otherwise) {
  if (config.has(short_key)) return positive(config, short_key);
  if (!config.has("compress_rates")) return otherwise;
  return positive_or(config.object("compress_rates"), layer_type, otherwise);
}

double read_partial_rotary_factor(const HfConfig& config, int64_t head_dim) {
  if (config.has("partial_rotary_factor")) return config.number("partial_rotary_factor");
  return static_cast<double>(positive(config, "qk_rope_head_dim")) / static_cast<double>(head_dim);
}

void read_rope(const HfConfig& config, Config& c) {
  const char* key = config.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const HfConfig rope = config.has(key) ? config.object(key) : HfConfig(Json::object(), config.where());
  if (rope.has("main") || rope.has("compress")) {
    for (auto [name, into] : {std::pair{"main", &c.rope_main}, std::pair{"compress", &c.rope_compress}}) {
      const HfConfig kind = rope.object(name);
      into->rope_theta = rope_theta(config, kind);
      into->dim = rotary_dim(kind, c.head_dim,
                             kind.has("partial_rotary_factor") ? kind.number("partial_rotary_factor")
                                                               : read_partial_rotary_factor(config, c.head_dim));
      read_rope_scaling(config, kind, *into);
    }
    return;
  }
  // One description: it scales the compressed kinds only, and never cos and sin themselves.
  c.rope_main = {.rope_theta = positive_number(config, "rope_theta", 10000),
                 .dim = rotary_dim(config, c.head_dim, read_partial_rotary_factor(config, c.head_dim)),
                 .yarn = false};
  c.rope_compress = c.rope_main;
  c.rope_compress.rope_theta = positive_number(config, "compress_rope_theta", 160000);
  read_rope_scaling(config, rope, c.rope_compress);
  c.rope_compress.attention_factor = positive_number(rope, "attention_factor", 1);
}

// Linear layers and experts in FP8 or, experts, in FP4 instead. The tensors' dtypes decide, so formats are known
// without quantization_config too.
Quantization read_stored_weights(const HfConfig& config) {
  Quantization stored{.scale_suffix = ".scale",
                      .narrow_scales = DType::kF8E8M0,
                      .fp8 = QuantFormat{DType::kF8E4M3, DType::kF8E8M0, 128, 128},
                      .fp4 = QuantFormat::fp4(DType::kF8E8M0),
                      .cut_off_blocks = false,
                      .linear = {},
                      .experts = {}};
  if (!config.has("quantization_config")) return stored;
  const HfConfig quantization = config.object("quantization_config");
  const std::string method = quantization.text("quant_method", ""), format = quantization.text("fmt", "e4m3");
  require(quantization, method == "fp8", fmt::format("quant_method {} is not supported: fp8", quote_text(method)));
  require(quantization, format == "e4m3", fmt::format("fmt {} is not supported: e4m3", quote_text(format)));
  stored.fp8->scales = stored.fp4->scales =
      quantization.text("scale_fmt", "") == "ue8m0" ? DType::kF8E8M0 : DType::kF32;
  if (quantization.has("weight_block_size")) {
    const std::vector<int64_t> block = quantization.integers("weight_block_size");
    require(quantization,
            block.size() == 2 && std::min(block[0], block[1]) > 0 && std::max(block[0], block[1]) <= kMaxWidth,
            fmt::format("weight_block_size must be two integers from 1 to {}", kMaxWidth));
    stored.fp8->block_rows = block[0];
    stored.fp8->block_columns = block[1];
  }
  stored.linear = stored.fp8;
  stored.experts = config.text("expert_dtype", "fp8") == "fp4" ? stored.fp4 : stored.fp8;
  return stored;
}

void check(const HfConfig& config, const Config& c) {
  require(config, c.num_experts_per_tok <= c.n_routed_experts,
          fmt::format("num_experts_per_tok {} is more than n_routed_experts {}", c.num_experts_per_tok,
                      c.n_routed_experts));
  require(config, c.num_attention_heads % c.o_groups == 0, "o_groups must divide num_attention_heads");
  for (const RopeSpec* rope : {&c.rope_main, &c.rope_compress}) {
    require(config, rope->dim <= c.index_head_dim,
            fmt::format("index_head_dim {} is less than the {} dims that RoPE turns", c.index_head_dim, rope->dim));
  }
  require(config, config.integer("num_key_value_heads", 1) == 1, "num_key_value_heads must be 1");
  require(config, !config.boolean("attention_bias", false) && !config.boolean("mlp_bias", false),
          "attention_bias and mlp_bias are not supported");
  require(config, config.text("hidden_act", "silu") == "silu", "hidden_act must be silu");
  require(config, config.text("scoring_func", "sqrtsoftplus") == "sqrtsoftplus", "scoring_func must be sqrtsoftplus");
}

}  // namespace

Config read_config(const HfConfig& config, DtypeChoice dtype) {
  Config c;
  c.vocab_size = positive(config, "vocab_size");
  c.hidden_size = width(config, "hidden_size");
  c.num_hidden_layers = layer_count(config);
  c.layer_types = read_layer_types(config, c.num_hidden_layers);
  c.mlp_layer_types = read_mlp_layer_types(config, c.num_hidden_layers);
  c.rms_norm_eps = positive_number(config, "rms_norm_eps", 1e-6);
  c.num_attention_heads = count(config, "num_attention_heads");
  c.head_dim = width(config, "head_dim");
  c.q_lora_rank = width(config, "q_lora_rank");
  c.o_groups = count(config, "o_groups");
  c.o_lora_rank = width(config, "o_lora_rank");
  c.sliding_window = positive(config, "sliding_window");
  read_rope(config, c);
  require(config, config.number("attention_dropout", 0) == 0, "attention_dropout must be 0");
  require(config, config.number("router_jitter_noise", 0) == 0,
          "router_jitter_noise must be 0: noise in training is not supported");
  c.compress_rate_csa = read_compress_rate(config, "compress_rate_csa", "compressed_sparse_attention", 4);
  c.compress_rate_hca = read_compress_rate(config, "compress_rate_hca", "heavily_compressed_attention", 128);
  c.index_n_heads = count(config, "index_n_heads");
  c.index_head_dim = width(config, "index_head_dim");
  c.index_topk = positive(config, "index_topk");
  c.hc_mult = positive(config, "hc_mult", kMaxStreams);
  c.hc_sinkhorn_iters = positive_or(config, "hc_sinkhorn_iters", 20, kMaxCount);
  c.hc_eps = positive_number(config, "hc_eps", 1e-6);
  const char* experts_key = config.has("num_local_experts") ? "num_local_experts" : "n_routed_experts";
  c.n_routed_experts = count(config, experts_key);
  check_experts(config, c.num_hidden_layers, experts_key, c.n_routed_experts);
  c.num_experts_per_tok = count(config, "num_experts_per_tok");
  c.moe_intermediate_size = width(config, "moe_intermediate_size");
  c.routed_scaling_factor = positive_number(config, "routed_scaling_factor", 1.5);
  c.swiglu_limit = positive_number(config, "swiglu_limit", 10);
  c.tie_word_embeddings = tie_word_embeddings(config);
  c.dtype = compute_dtype(config, dtype);
  c.stored = read_stored_weights(config);
  check(config, c);
  return c;
}

}  // namespace moraine::deepseek_v4
