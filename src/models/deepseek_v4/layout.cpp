#include "models/deepseek_v4/layout.h"

#include <fmt/format.h>

#include "models/declaration.h"
#include "models/output_head.h"
#include "models/param_specs.h"

namespace moraine::deepseek_v4 {
namespace {

// Columns of a compressor's projections: CSA makes two entries of overlapping windows from each token.
int64_t compressed_width(LayerType type, int64_t head_dim) {
  return type == LayerType::kCompressedSparseAttention ? 2 * head_dim : head_dim;
}

// Inside a layer; longer names stand before those that they begin with.
const std::vector<std::pair<std::string, std::string>> kStoredNames{
    {"attn_hc.fn", "hc_attn_fn"},
    {"attn_hc.base", "hc_attn_base"},
    {"attn_hc.scale", "hc_attn_scale"},
    {"ffn_hc.fn", "hc_ffn_fn"},
    {"ffn_hc.base", "hc_ffn_base"},
    {"ffn_hc.scale", "hc_ffn_scale"},
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"self_attn.q_a_proj", "attn.wq_a"},
    {"self_attn.q_a_norm", "attn.q_norm"},
    {"self_attn.q_b_proj", "attn.wq_b"},
    {"self_attn.kv_proj", "attn.wkv"},
    {"self_attn.kv_norm", "attn.kv_norm"},
    {"self_attn.o_a_proj", "attn.wo_a"},
    {"self_attn.o_b_proj", "attn.wo_b"},
    {"self_attn.sinks", "attn.attn_sink"},
    {"self_attn.compressor.indexer.q_b_proj", "attn.indexer.wq_b"},
    {"self_attn.compressor.indexer.scorer.weights_proj", "attn.indexer.weights_proj"},
    {"self_attn.compressor.indexer.kv_proj", "attn.indexer.compressor.wkv"},
    {"self_attn.compressor.indexer.gate_proj", "attn.indexer.compressor.wgate"},
    {"self_attn.compressor.indexer.position_bias", "attn.indexer.compressor.ape"},
    {"self_attn.compressor.indexer.kv_norm", "attn.indexer.compressor.norm"},
    {"self_attn.compressor.kv_proj", "attn.compressor.wkv"},
    {"self_attn.compressor.gate_proj", "attn.compressor.wgate"},
    {"self_attn.compressor.position_bias", "attn.compressor.ape"},
    {"self_attn.compressor.kv_norm", "attn.compressor.norm"},
    {"mlp.gate.e_score_correction_bias", "ffn.gate.bias"},
    {"mlp.gate", "ffn.gate"},
    {"mlp.experts", "ffn.experts"},
    {"mlp.shared_experts.gate_proj", "ffn.shared_experts.w1"},
    {"mlp.shared_experts.up_proj", "ffn.shared_experts.w3"},
    {"mlp.shared_experts.down_proj", "ffn.shared_experts.w2"},
};

// Kept in F32 for their precision whatever the compute dtype is.
ParamOptions fp32(InitialValues init) { return {.init = init, .dtype = DType::kF32}; }
constexpr ParamOptions kNorm{.init = InitialValues::kOnes};

void declare_hyper_connection(Declaration& d, const Config& c, const std::string& name) {
  // A token's streams make its weights: hc_mult to read, hc_mult to write, hc_mult² to mix.
  const int64_t num_weights = (2 + c.hc_mult) * c.hc_mult;
  d.param(name + ".fn", {num_weights, c.hc_mult * c.hidden_size}, fp32(InitialValues::kNormal));
  d.param(name + ".base", {num_weights}, fp32(InitialValues::kZeros));
  d.param(name + ".scale", {3}, fp32(InitialValues::kOnes));
}

// Of the layer's attention or of its indexer, whose heads have another width. The hub leaves compressors unquantised.
void declare_compressor(Declaration& d, const Config& c, LayerType type, const std::string& name, int64_t head_dim,
                        bool lora) {
  const int64_t width = compressed_width(type, head_dim);
  for (const char* projection : {".kv_proj", ".gate_proj"})
    d.linear(name + projection, width, c.hidden_size, {.lora = lora, .quantised = false});
  d.param(name + ".position_bias", {c.compress_rate(type), width}, fp32(InitialValues::kZeros));
  d.param(name + ".kv_norm.weight", {head_dim}, kNorm);
}

void declare_attention(Declaration& d, const Config& c, LayerType type) {
  const int64_t H = c.hidden_size, heads_width = c.num_attention_heads * c.head_dim;
  d.linear("self_attn.q_a_proj", c.q_lora_rank, H);
  d.param("self_attn.q_a_norm.weight", {c.q_lora_rank}, kNorm);
  d.linear("self_attn.q_b_proj", heads_width, c.q_lora_rank);
  d.linear("self_attn.kv_proj", c.head_dim, H);
  d.param("self_attn.kv_norm.weight", {c.head_dim}, kNorm);
  d.linear("self_attn.o_a_proj", c.o_groups * c.o_lora_rank, heads_width / c.o_groups, {.lora = false});
  d.linear("self_attn.o_b_proj", H, c.o_groups * c.o_lora_rank);
  d.param("self_attn.sinks", {c.num_attention_heads}, fp32(InitialValues::kZeros));
  if (type == LayerType::kSlidingAttention) return;
  declare_compressor(d, c, type, "self_attn.compressor", c.head_dim, /*lora=*/true);
  if (type != LayerType::kCompressedSparseAttention) return;
  const std::string indexer = "self_attn.compressor.indexer";
  declare_compressor(d, c, type, indexer, c.index_head_dim, /*lora=*/false);
  d.linear(indexer + ".q_b_proj", c.index_n_heads * c.index_head_dim, c.q_lora_rank, {.lora = false});
  d.linear(indexer + ".scorer.weights_proj", c.index_n_heads, H, {.lora = false, .quantised = false});
}

Declaration declare_layer(const Config& c, Declaration::Part part, int64_t layer, const StoredDtype& stored) {
  const int64_t H = c.hidden_size, I = c.moe_intermediate_size;
  const StoredNames names{.layers = "layers.", .renamed = kStoredNames, .gate = "w1", .up = "w3", .down = "w2"};
  Declaration d(part, layer, {.names = names, .dtype = c.dtype, .quantization = c.stored}, stored);
  declare_hyper_connection(d, c, "attn_hc");
  d.param("input_layernorm.weight", {H}, kNorm);
  declare_attention(d, c, c.layer_types[layer]);
  declare_hyper_connection(d, c, "ffn_hc");
  d.param("post_attention_layernorm.weight", {H}, kNorm);
  d.router("mlp.gate", c.n_routed_experts, H);
  if (c.mlp_layer_types[layer] == MlpLayerType::kHashMoe) {
    d.param("mlp.gate.tid2eid", {c.vocab_size, c.num_experts_per_tok},
            {.init = InitialValues::kExpertIds, .dtype = DType::kI64});
  } else {
    d.param("mlp.gate.e_score_correction_bias", {c.n_routed_experts}, fp32(InitialValues::kZeros));
  }
  d.experts("mlp.experts", c.n_routed_experts, I, H);
  shared_experts(c).declare(d);
  return d;
}

}  // namespace

DeepseekV4Layout::DeepseekV4Layout(Config config) : config_(std::move(config)) {
  const Config& c = config_;
  shape_ = {.num_hidden_layers = c.num_hidden_layers,
            .hidden_size = c.hidden_size,
            .vocab_size = c.vocab_size,
            .num_experts = c.n_routed_experts,
            .num_experts_per_tok = c.num_experts_per_tok,
            .dtype = c.dtype};
}

int64_t DeepseekV4Layout::layer_kind(int64_t layer) const {
  int64_t first = 0;
  while (config_.layer_types[first] != config_.layer_types[layer] ||
         config_.mlp_layer_types[first] != config_.mlp_layer_types[layer])
    ++first;
  return first;
}

ImageSpec DeepseekV4Layout::root_spec(const StoredDtype& stored) const {
  const Config& c = config_;
  ImageSpec root{"root", ImageKind::kRoot, {}};
  auto add = [&](const std::string& name, const std::string& tensor, std::vector<int64_t> shape,
                 const ParamOptions& options = {}) {
    root.params.push_back(stored_whole(name, tensor, std::move(shape), options.dtype.value_or(c.dtype)));
    root.params.back().init = options.init;
  };
  add("model.embed_tokens.weight", "embed.weight", {c.vocab_size, c.hidden_size});
  add("model.hc_head.hc_fn", "hc_head_fn", {c.hc_mult, c.hc_mult * c.hidden_size}, fp32(InitialValues::kNormal));
  add("model.hc_head.hc_base", "hc_head_base", {c.hc_mult}, fp32(InitialValues::kZeros));
  add("model.hc_head.hc_scale", "hc_head_scale", {1}, fp32(InitialValues::kOnes));
  add("model.norm.weight", "norm.weight", {c.hidden_size}, kNorm);
  if (has_own_head(c.tie_word_embeddings, "head.weight", stored))
    add("lm_head.weight", "head.weight", {c.vocab_size, c.hidden_size});
  return root;
}

ImageSpec DeepseekV4Layout::dense_spec(int64_t layer, const StoredDtype& stored) const {
  return declare_layer(config_, Declaration::Part::kDense, layer, stored).take_spec();
}

ImageSpec DeepseekV4Layout::experts_spec(int64_t layer, const StoredDtype& stored) const {
  return declare_layer(config_, Declaration::Part::kExperts, layer, stored).take_spec();
}

std::optional<std::string> DeepseekV4Layout::why_skipped(const std::string& tensor) const {
  if (tensor.starts_with("mtp.")) return "multi-token prediction";
  return std::nullopt;
}

std::vector<LoraModule> DeepseekV4Layout::lora_modules() const {
  std::vector<LoraModule> modules;
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer)
    for (LoraModule& module :
         declare_layer(config_, Declaration::Part::kModules, layer, no_checkpoint()).take_modules())
      modules.push_back(std::move(module));
  return with_embedding_and_head(std::move(modules), shape_);
}

Mlp shared_experts(const Config& c) {
  return Mlp("mlp.shared_experts", c.hidden_size, c.moe_intermediate_size, /*lora=*/true, c.swiglu_limit);
}

std::unique_ptr<ModelLayout> make_layout(const HfConfig& config, DtypeChoice dtype) {
  return std::make_unique<DeepseekV4Layout>(read_config(config, dtype));
}

}  // namespace moraine::deepseek_v4
