#include "plan/activation_plan.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/bytes.h"
#include "models/param_specs.h"
#include "nn/gemm_shapes.h"
#include "nn/quantized_weight.h"
#include "tensor/torch_dtype.h"

namespace moraine {
namespace {

constexpr double kIndex = 8;  // bytes of an index

int64_t row_alignment(const PlannedModel& model) {
  return gemm_row_alignment(at::kCPU, torch_dtype(model.shape.dtype));
}

// Rows of `experts` experts, each expert's filled up to a multiple of `alignment`, when tokens choose at random.
double filled_rows(double rows, int64_t experts, int64_t alignment) {
  if (alignment == 1 || rows == 0) return rows;
  const double mean = rows / experts, busy = experts * (1 - std::exp(-mean));
  return busy * std::max<double>(alignment, rows / busy + (alignment - 1) / 2.0);
}

bool is_matrix(const ParamSpec& param) { return param.shape.size() == 2 && param.name.ends_with(".weight"); }

// What autograd holds of one layer: `tape` from its forward run on, `backward` at the fullest moment of its backward
// pass besides. Bytes.
struct LayerMemory {
  double tape = 0, backward = 0;
  double total() const { return tape + backward; }
};

class LayerCounter {
 public:
  LayerCounter(const PlannedModel& model, const PassShape& pass)
      : model_(model),
        shape_(model.shape),
        pass_(pass),
        size_(dtype_bits(model.shape.dtype) / 8.0),
        casts_(size_ != kFloat) {}

  LayerMemory count(int64_t layer) const {
    const bool routes = !experts_of(layer).params.empty();
    const double dense = dense_tape(layer), experts = routes ? experts_tape(layer) : 0;
    // The gradient of the output, and that of the residual stream.
    const double gradients = 2 * tokens(shape_.residual_streams * shape_.hidden_size) * size_;
    // The experts' backward pass comes first, with the whole tape alive; the attention's finds the experts' tape
    // dropped.
    double most = attention_backward(layer) + dequantized(dense_of(layer)) - experts;
    if (routes) most = std::max(most, experts_backward(layer) + dequantized(experts_of(layer)));
    return {dense + experts, gradients + std::max(most, 0.0)};
  }

  // What a layer leaves behind for its recomputation: its input and where its rows went (LayerRecord).
  double input() const { return tokens(shape_.residual_streams * shape_.hidden_size) * size_; }
  double record(int64_t layer) const {
    const double exchange = pass_.exchanges ? pass_.received_rows + pass_.expert_rows : 0;
    return (2 * tokens(shape_.num_experts_per_tok) + 2 * pass_.sent_rows + exchange) * kIndex + choice(layer);
  }

 private:
  const ImageSpec& dense_of(int64_t layer) const { return model_.sizes[dense_image(layer)]; }
  const ImageSpec& experts_of(int64_t layer) const { return model_.sizes[experts_image(layer)]; }
  double tokens(double width) const { return pass_.tokens * width; }

  // The entries that tokens of a sparse attention chose, when there are more than they may choose.
  double choice(int64_t layer) const {
    const BlockedScores& scores = shape_.attention[layer].scores;
    if (scores.chosen_entries == 0 || pass_.length / scores.rate <= scores.chosen_entries) return 0;
    const double choosing = pass_.length - static_cast<double>(scores.chosen_entries * scores.rate);
    return tokens(choosing / pass_.length) * scores.chosen_entries * 4;
  }

  // Weights that are dequantised for their use: a matrix, or a wave of experts (nn/quantized_weight).
  double dequantized(const ImageSpec& image) const {
    double most = 0;
    for (const ParamSpec& scale : image.params) {
      const ParamSpec* param = scaled_param(scale);
      if (!param) continue;
      const bool experts = param->kind == ParamKind::kExperts;
      const int64_t copies = experts ? param->shape[0] : 1;
      const double bytes =
          static_cast<double>(num_elements(param->shape) / copies) * (param->dtype == DType::kI8 ? 2 : 1) * size_;
      const int64_t at_once =
          experts ? std::min(pass_.local_experts, experts_dequantized_at_once(static_cast<int64_t>(bytes))) : 1;
      most = std::max(most, bytes * at_once);
    }
    return most;
  }

  // A block of scores: themselves, their gradient and the product of both in fp32, and what goes into products.
  double score_block(const BlockedScores& scores) const {
    const double keys = std::min<int64_t>(pass_.length, scores.window + scores.block) +
                        (scores.rate > 0 ? static_cast<double>(pass_.length) / scores.rate : 0);
    return std::min(scores.block, pass_.length) * scores.heads * keys * (3 * kFloat + (casts_ ? size_ : 0));
  }

  // Calls body(module, experts' copies or 1) for the adapters of a layer.
  template <typename Body>
  void for_each_adapter(int64_t layer, const Body& body) const {
    for (const LoraModule& module : model_.targets)
      if (module.layer == layer) body(module, module.num_experts > 0 ? pass_.local_experts : 1);
  }

  // nn/norm, nn/attention, nn/router, and the linear layers around them.
  double dense_tape(int64_t layer) const {
    const double H = shape_.hidden_size, streams = shape_.residual_streams;
    // The inputs of attention and experts; the residual stream after the attention and after the layer.
    double elements = (2 + 2 * streams) * H + shape_.attention[layer].tape;
    double singles = shape_.attention[layer].tape_fp32;
    if (shape_.shared_intermediate > 0) elements += 3 * shape_.shared_intermediate + H;
    if (!experts_of(layer).params.empty()) {
      elements += shape_.num_experts;  // the router's logits
      singles += shape_.num_experts + 2 * shape_.num_experts_per_tok;
    }
    for (const ParamSpec& param : dense_of(layer).params)
      if (param.name == "mlp.down_proj.weight") elements += 3 * param.shape[1] + H;  // a layer without experts
    for_each_adapter(layer, [&](const LoraModule& module, int64_t) {
      if (module.num_experts == 0) singles += module.r;  // the product with A
    });
    return tokens(elements * size_ + singles * kFloat);
  }

  // dispatch → grouped_linear → swiglu → grouped_linear → combine.
  double experts_tape(int64_t layer) const {
    const double H = shape_.hidden_size, I = shape_.expert_intermediate;
    double bytes = (pass_.expert_rows * (H + 3 * I) + pass_.sent_rows * H) * size_;
    for_each_adapter(layer, [&](const LoraModule& module, int64_t copies) {
      if (module.num_experts == 0) return;
      bytes += pass_.expert_rows * module.r * size_;  // the product with A
      if (casts_) bytes += static_cast<double>(copies * module.r) * (module.in_features + module.out_features) * size_;
    });
    return bytes;
  }

  // Besides the whole tape.
  double experts_backward(int64_t layer) const {
    const double H = shape_.hidden_size, I = shape_.expert_intermediate;
    const double S = pass_.sent_rows, V = pass_.received_rows, R = pass_.expert_rows;
    // Combine: the rows' gradients, weighted and on their way; then their products with the outputs in fp32.
    const double sending = pass_.exchanges ? (2 * S + V + R) * H * size_ : 0;
    const double weighing = (S + R) * H * size_ + S * H * (casts_ ? 2 * kFloat : kFloat);
    // SwiGLU and the first product, when what combine kept is dropped.
    const double inside = (R * std::max(6 * I, H + 2 * I) - S * H) * size_;
    return std::max({sending, weighing, inside});
  }

  // Besides the dense tape.
  double attention_backward(int64_t layer) const {
    const AttentionMemory& attention = shape_.attention[layer];
    return tokens(attention.backward * size_ + attention.backward_fp32 * kFloat) + score_block(attention.scores);
  }

  const PlannedModel& model_;
  const ModelShape& shape_;
  const PassShape& pass_;
  double size_;
  bool casts_;  // from the adapter's fp32 to the compute dtype
};

// oneDNN compiles a kernel for every shape of a bf16 product and keeps the last 8192 of them (base/cpu_features). With
// its descriptors a kernel takes about this much (measured, oneDNN of torch 2.13), more than many an activation.
constexpr double kKernelBytes = 0.62 * (1 << 20), kMaxKernels = 8192;

double kernel_bytes(const PlannedModel& model, const PlannedRun& run, const PassShape& pass) {
  if (model.shape.dtype != DType::kBF16 || pass.tokens == 0) return 0;
  std::set<std::vector<int64_t>> linear_shapes;
  int64_t routing_layers = 0;
  for (const ImageSpec& spec : model.sizes) {
    if (spec.kind == ImageKind::kExperts) routing_layers += !spec.params.empty();
    if (spec.kind != ImageKind::kDense) continue;
    for (const ParamSpec& param : spec.params)
      if (is_matrix(param)) linear_shapes.insert(param.shape);
  }
  // An expert's product forwards and backwards, and with an adapter four thin ones more, for every row count that
  // occurs.
  std::set<std::string> expert_weights, adapted;
  for (const ImageSpec& spec : model.sizes)
    for (const ParamSpec& param : spec.params)
      if (param.kind == ParamKind::kExperts && param.shape.size() == 3 && !scaled_param(param))
        expert_weights.insert(param.name);
  for (const LoraModule& module : model.targets)
    if (module.num_experts > 0) adapted.insert(module.local_name);
  const double products = 2.0 * expert_weights.size() + 4.0 * adapted.size();
  // A token goes to an expert at most once.
  const double row_counts =
      std::min<double>(std::ceil(static_cast<double>(pass.world_of_tokens) / row_alignment(model)),
                       static_cast<double>(routing_layers) * pass.local_experts * run.micro_steps());
  const double of_head = 4;
  // Seven products of scores, for every number of keys that a block of an attention of its own has.
  double of_scores = 0;
  for (const AttentionMemory& attention : model.shape.attention) {
    const BlockedScores& scores = attention.scores;
    if (scores.block == 0) continue;
    const int64_t keys = (scores.rate > 0 ? pass.length / scores.rate : 0) + scores.window;
    of_scores = std::max(of_scores, 7 * (1 + static_cast<double>(keys) / scores.block));
  }
  return std::min(kMaxKernels, products * row_counts + 2.0 * linear_shapes.size() + of_head + of_scores) * kKernelBytes;
}

}  // namespace

PassShape plan_pass(const PlannedModel& model, const PlannedRun& run, int64_t rank, double imbalance) {
  const Mesh& mesh = run.mesh;
  const int64_t alignment = row_alignment(model), length = static_cast<int64_t>(round_up(run.max_length, alignment));
  PassShape pass;
  pass.length = length;
  pass.tokens = run.sequences_at_once(rank) * length;
  for (int64_t peer : mesh.group(MeshAxis::kEp, rank)) pass.world_of_tokens += run.sequences_at_once(peer) * length;
  pass.local_experts = expert_range(model.shape.num_experts, mesh.ep, mesh.group_rank(MeshAxis::kEp, rank)).count;
  pass.exchanges = mesh.ep > 1;
  const double choices = model.shape.num_experts_per_tok,
               share = static_cast<double>(pass.local_experts) / model.shape.num_experts;
  pass.sent_rows = pass.tokens * choices;
  pass.received_rows = pass.world_of_tokens * choices * share * imbalance;
  pass.expert_rows = filled_rows(pass.received_rows, pass.local_experts, alignment);
  // In one process the sender fills up.
  if (!pass.exchanges) pass.sent_rows = pass.expert_rows;
  return pass;
}

ActivationPlan plan_activations(const PlannedModel& model, const PlannedRun& run, const PassShape& pass) {
  const ModelShape& shape = model.shape;
  const double size = dtype_bits(shape.dtype) / 8.0;
  const LayerCounter counter(model, pass);
  ActivationPlan plan;
  LayerMemory widest;
  double tapes = 0;
  const int64_t first = model.first_adapted_layer();
  for (int64_t layer = 0; layer < shape.num_hidden_layers; ++layer) {
    plan.kept += counter.record(layer);
    if (layer < first) continue;
    const LayerMemory memory = counter.count(layer);
    if (memory.total() > widest.total()) widest = memory;
    tapes += memory.tape;
    if (run.recompute) plan.kept += counter.input();
  }
  if (!run.recompute) plan.kept += tapes + counter.input();
  plan.layer = run.recompute ? widest.total() : widest.backward;

  // Ids, positions and targets; RoPE's tables.
  plan.kept += pass.tokens * (3 * kIndex + 512);
  // The last hidden states, normed, and their gradient; the norm's fp32 copies or a chunk's logits with what logsumexp
  // makes of them.
  const double chunk = std::min<int64_t>(256, pass.tokens);
  plan.head = 3.0 * pass.tokens * shape.hidden_size * size +
              std::max(chunk * shape.vocab_size * 2 * kFloat, 3.0 * pass.tokens * shape.hidden_size * kFloat);
  plan.kernels = kernel_bytes(model, run, pass);
  return plan;
}

}  // namespace moraine
