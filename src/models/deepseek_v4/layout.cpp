#include "models/deepseek_v4/layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/deepseek_v4/attention.h"
#include "models/output_head.h"
#include "models/param_specs.h"

namespace moraine::deepseek_v4 {
namespace {

// Columns of a compressor's projections: CSA makes two entries of overlapping windows from each token.
int64_t compressed_width(LayerType type, int64_t head_dim) {
  return type == LayerType::kCompressedSparseAttention ? 2 * head_dim : head_dim;
}

// The tensors of DeepseekV4Model::attend and of the hyper-connections around attention and experts.
AttentionMemory attention_memory(const Config& c, LayerType type) {
  const bool compresses = type != LayerType::kSlidingAttention, chooses = type == LayerType::kCompressedSparseAttention;
  const int64_t heads = c.num_attention_heads * c.head_dim, compressed = compresses ? 2 * compressed_width(type, c.head_dim) : 0;
  const int64_t indexer = chooses ? c.index_n_heads * c.index_head_dim + 2 * compressed_width(type, c.index_head_dim) : 0;
  // What hyper-connections pass to and take from attention and experts; low-rank queries before and after their norm; queries before and
  // after norm and RoPE, the key likewise, the output's low-rank projection; windows of a compressor's keys and their softmax.
  const int64_t tape = 3 * c.hidden_size + 2 * c.q_lora_rank + 2 * heads + 2 * c.head_dim + c.o_groups * c.o_lora_rank + compressed;
  // Of both hyper-connections: their projection before and after the norm, weights, mixing before and after Sinkhorn and as it is used;
  // the softmax's denominators; a compressor's softmax.
  const int64_t tape_fp32 =
      2 * (4 * (2 + c.hc_mult) * c.hc_mult) + c.num_attention_heads + (compresses ? 2 * c.head_dim : 0);
  // Queries, the one key that is the value too, the attention's output, and what compressor and indexer make of a token.
  const int64_t width = 2 * heads + c.head_dim + compressed + indexer;
  const int64_t widest = std::max({heads, c.hidden_size, c.o_groups * c.o_lora_rank, c.n_routed_experts});
  return {.tape = static_cast<double>(tape),
          .tape_fp32 = static_cast<double>(tape_fp32),
          .backward = 2.0 * static_cast<double>(width),
          .backward_fp32 = 3.0 * static_cast<double>(widest),
          .scores = {.block = kQueryBlock,
                     .heads = c.num_attention_heads,
                     .window = c.sliding_window,
                     .rate = compresses ? c.compress_rate(type) : 0,
                     .chosen_entries = chooses ? c.index_topk : 0}};
}

// How `tensor`.weight is stored; `assumed` where the checkpoint lacks it.
MatrixFormat format_of(const std::string& tensor, const StoredDtype& stored, const Config& c, const MatrixFormat& assumed) {
  const std::optional<DType> weight = stored(tensor + ".weight");
  if (!weight) return assumed;
  // The same values are E8M0 in one release and F32 in another.
  const DType scale = stored(tensor + ".scale").value_or(c.stored.scale_dtype);
  if (*weight == DType::kF8E4M3) return MatrixFormat::fp8(scale, c.stored.block_rows, c.stored.block_columns);
  if (*weight == DType::kI8) return MatrixFormat::fp4(scale);
  return MatrixFormat::plain(c.dtype);
}

MatrixFormat assumed_linear(const Config& c) {
  return c.stored.fp8 ? MatrixFormat::fp8(c.stored.scale_dtype, c.stored.block_rows, c.stored.block_columns)
                      : MatrixFormat::plain(c.dtype);
}

MatrixFormat assumed_experts(const Config& c) {
  return c.stored.fp4_experts ? MatrixFormat::fp4(c.stored.scale_dtype) : assumed_linear(c);
}

// The parameters of one layer, from the tensors of `prefix` ("layers.3.").
class LayerParams {
 public:
  LayerParams(const Config& config, const StoredDtype& stored, std::string prefix, ImageSpec& into)
      : c_(config), stored_(stored), prefix_(std::move(prefix)), into_(into) {}

  void add(const std::string& name, const std::string& tensor, std::vector<int64_t> shape, DType dtype) {
    into_.params.push_back(stored_whole(name, prefix_ + tensor, std::move(shape), dtype));
  }

  // The weight of a linear layer and, where it is quantised, its scales.
  void add_linear(const std::string& name, const std::string& tensor, int64_t out, int64_t in, const MatrixFormat& assumed) {
    const std::string full = prefix_ + tensor;
    const MatrixFormat format = format_of(full, stored_, c_, assumed);
    add(name + ".weight", tensor + ".weight", {out, format.stored_columns(in)}, format.dtype);
    if (!format.quantized()) return;
    add(name + ".weight_scale", tensor + ".scale", {format.scale_rows(out, full), format.scale_columns(in, full)},
        *format.scale_dtype);
  }

  // A parameter of all experts; of each, the projections `tensors` of rows × columns one after another.
  void add_experts(const std::string& name, const std::vector<std::string>& tensors, int64_t rows, int64_t columns) {
    const std::string prefix = prefix_ + "ffn.experts.", first = fmt::format("{}0.{}", prefix, tensors[0]);
    const MatrixFormat format = format_of(first, stored_, c_, assumed_experts(c_));
    const auto stacked = [&](const char* name_end, const char* tensor_end, int64_t r, int64_t k, DType dtype) {
      std::vector<std::string> suffixes;
      for (const std::string& tensor : tensors) suffixes.push_back("." + tensor + tensor_end);
      into_.params.push_back(stored_by_expert(name + name_end, prefix, suffixes, c_.n_routed_experts, r, k, dtype));
    };
    stacked("", ".weight", rows, format.stored_columns(columns), format.dtype);
    if (!format.quantized()) return;
    stacked("_scale", ".scale", format.scale_rows(rows, first), format.scale_columns(columns, first), *format.scale_dtype);
  }

 private:
  const Config& c_;
  const StoredDtype& stored_;
  std::string prefix_;
  ImageSpec& into_;
};

void add_hyper_connection(LayerParams& params, const Config& c, const std::string& name, const std::string& tensor) {
  // A token's streams make its weights: hc_mult to read, hc_mult to write, hc_mult² to mix.
  const int64_t num_weights = (2 + c.hc_mult) * c.hc_mult;
  params.add(name + ".fn", tensor + "_fn", {num_weights, c.hc_mult * c.hidden_size}, DType::kF32);
  params.add(name + ".base", tensor + "_base", {num_weights}, DType::kF32);
  params.add(name + ".scale", tensor + "_scale", {3}, DType::kF32);
}

// Of the layer's attention or of its indexer, whose heads have another width. The hub leaves compressors unquantised.
void add_compressor(LayerParams& params, const Config& c, LayerType type, const std::string& name,
                    const std::string& tensor, int64_t head_dim) {
  const int64_t width = compressed_width(type, head_dim);
  const MatrixFormat plain = MatrixFormat::plain(c.dtype);
  params.add_linear(name + ".kv_proj", tensor + ".wkv", width, c.hidden_size, plain);
  params.add_linear(name + ".gate_proj", tensor + ".wgate", width, c.hidden_size, plain);
  params.add(name + ".position_bias", tensor + ".ape", {c.compress_rate(type), width}, DType::kF32);
  params.add(name + ".kv_norm.weight", tensor + ".norm.weight", {head_dim}, c.dtype);
}

void add_attention(LayerParams& params, const Config& c, LayerType type) {
  const int64_t H = c.hidden_size, heads_width = c.num_attention_heads * c.head_dim;
  const MatrixFormat linear = assumed_linear(c);
  params.add_linear("self_attn.q_a_proj", "attn.wq_a", c.q_lora_rank, H, linear);
  params.add("self_attn.q_a_norm.weight", "attn.q_norm.weight", {c.q_lora_rank}, c.dtype);
  params.add_linear("self_attn.q_b_proj", "attn.wq_b", heads_width, c.q_lora_rank, linear);
  params.add_linear("self_attn.kv_proj", "attn.wkv", c.head_dim, H, linear);
  params.add("self_attn.kv_norm.weight", "attn.kv_norm.weight", {c.head_dim}, c.dtype);
  params.add_linear("self_attn.o_a_proj", "attn.wo_a", c.o_groups * c.o_lora_rank, heads_width / c.o_groups, linear);
  params.add_linear("self_attn.o_b_proj", "attn.wo_b", H, c.o_groups * c.o_lora_rank, linear);
  params.add("self_attn.sinks", "attn.attn_sink", {c.num_attention_heads}, DType::kF32);
  if (type == LayerType::kSlidingAttention) return;
  add_compressor(params, c, type, "self_attn.compressor", "attn.compressor", c.head_dim);
  if (type != LayerType::kCompressedSparseAttention) return;
  const std::string indexer = "self_attn.compressor.indexer";
  add_compressor(params, c, type, indexer, "attn.indexer.compressor", c.index_head_dim);
  params.add_linear(indexer + ".q_b_proj", "attn.indexer.wq_b", c.index_n_heads * c.index_head_dim, c.q_lora_rank, linear);
  params.add_linear(indexer + ".scorer.weights_proj", "attn.indexer.weights_proj", c.index_n_heads, H,
                    MatrixFormat::plain(c.dtype));
}

}  // namespace

DeepseekV4Layout::DeepseekV4Layout(Config config) : config_(std::move(config)) {
  const Config& c = config_;
  shape_ = {.num_hidden_layers = c.num_hidden_layers,
            .hidden_size = c.hidden_size,
            .vocab_size = c.vocab_size,
            .num_experts = c.n_routed_experts,
            .num_experts_per_tok = c.num_experts_per_tok,
            .dtype = c.dtype,
            .residual_streams = c.hc_mult,
            .expert_intermediate = c.moe_intermediate_size,
            .shared_intermediate = c.moe_intermediate_size};
  for (LayerType type : c.layer_types) shape_.attention.push_back(attention_memory(c, type));
}

ImageSpec DeepseekV4Layout::root_spec(const StoredDtype& stored) const {
  const Config& c = config_;
  ImageSpec root{"root", ImageKind::kRoot, {}};
  auto add = [&](const std::string& name, const std::string& tensor, std::vector<int64_t> shape, DType dtype) {
    root.params.push_back(stored_whole(name, tensor, std::move(shape), dtype));
  };
  add("model.embed_tokens.weight", "embed.weight", {c.vocab_size, c.hidden_size}, c.dtype);
  add("model.hc_head.hc_fn", "hc_head_fn", {c.hc_mult, c.hc_mult * c.hidden_size}, DType::kF32);
  add("model.hc_head.hc_base", "hc_head_base", {c.hc_mult}, DType::kF32);
  add("model.hc_head.hc_scale", "hc_head_scale", {1}, DType::kF32);
  add("model.norm.weight", "norm.weight", {c.hidden_size}, c.dtype);
  if (has_own_head(c.tie_word_embeddings, "head.weight", stored))
    add("lm_head.weight", "head.weight", {c.vocab_size, c.hidden_size}, c.dtype);
  return root;
}

ImageSpec DeepseekV4Layout::dense_spec(int64_t layer, const StoredDtype& stored) const {
  const Config& c = config_;
  const int64_t H = c.hidden_size, I = c.moe_intermediate_size;
  ImageSpec spec{fmt::format("layers.{}.dense", layer), ImageKind::kDense, {}};
  LayerParams params(c, stored, fmt::format("layers.{}.", layer), spec);
  add_hyper_connection(params, c, "attn_hc", "hc_attn");
  params.add("input_layernorm.weight", "attn_norm.weight", {H}, c.dtype);
  add_attention(params, c, c.layer_types[layer]);
  add_hyper_connection(params, c, "ffn_hc", "hc_ffn");
  params.add("post_attention_layernorm.weight", "ffn_norm.weight", {H}, c.dtype);
  params.add("mlp.gate.weight", "ffn.gate.weight", {c.n_routed_experts, H}, c.dtype);
  if (c.mlp_layer_types[layer] == MlpLayerType::kHashMoe) {
    params.add("mlp.gate.tid2eid", "ffn.gate.tid2eid", {c.vocab_size, c.num_experts_per_tok}, DType::kI64);
  } else {
    params.add("mlp.gate.e_score_correction_bias", "ffn.gate.bias", {c.n_routed_experts}, DType::kF32);
  }
  const MatrixFormat linear = assumed_linear(c);
  params.add_linear("mlp.shared_experts.gate_proj", "ffn.shared_experts.w1", I, H, linear);
  params.add_linear("mlp.shared_experts.up_proj", "ffn.shared_experts.w3", I, H, linear);
  params.add_linear("mlp.shared_experts.down_proj", "ffn.shared_experts.w2", H, I, linear);
  return spec;
}

ImageSpec DeepseekV4Layout::experts_spec(int64_t layer, const StoredDtype& stored) const {
  const Config& c = config_;
  ImageSpec spec{fmt::format("layers.{}.experts", layer), ImageKind::kExperts, {}};
  LayerParams params(c, stored, fmt::format("layers.{}.", layer), spec);
  params.add_experts("mlp.experts.gate_up_proj", {"w1", "w3"}, c.moe_intermediate_size, c.hidden_size);
  params.add_experts("mlp.experts.down_proj", {"w2"}, c.hidden_size, c.moe_intermediate_size);
  return spec;
}

std::optional<std::string> DeepseekV4Layout::why_skipped(const std::string& tensor) const {
  if (tensor.starts_with("mtp.")) return "multi-token prediction";
  return std::nullopt;
}

std::vector<LoraModule> DeepseekV4Layout::lora_modules() const {
  const Config& c = config_;
  const int64_t H = c.hidden_size, I = c.moe_intermediate_size;
  std::vector<LoraModule> modules;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    auto add = [&](const std::string& name, int64_t experts, int64_t in, int64_t out) {
      modules.push_back({fmt::format("model.layers.{}.{}", layer, name), layer, name, experts, in, out});
    };
    const LayerType type = c.layer_types[layer];
    add("self_attn.q_a_proj", 0, H, c.q_lora_rank);
    add("self_attn.q_b_proj", 0, c.q_lora_rank, c.num_attention_heads * c.head_dim);
    add("self_attn.kv_proj", 0, H, c.head_dim);
    add("self_attn.o_b_proj", 0, c.o_groups * c.o_lora_rank, H);
    if (type != LayerType::kSlidingAttention) {
      add("self_attn.compressor.kv_proj", 0, H, compressed_width(type, c.head_dim));
      add("self_attn.compressor.gate_proj", 0, H, compressed_width(type, c.head_dim));
    }
    add("mlp.experts.gate_up_proj", c.n_routed_experts, H, 2 * I);
    add("mlp.experts.down_proj", c.n_routed_experts, I, H);
    add("mlp.shared_experts.gate_proj", 0, H, I);
    add("mlp.shared_experts.up_proj", 0, H, I);
    add("mlp.shared_experts.down_proj", 0, I, H);
  }
  return modules;
}

}  // namespace moraine::deepseek_v4
