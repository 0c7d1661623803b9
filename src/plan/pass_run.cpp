#include "plan/pass_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <string>

#include "base/bytes.h"
#include "nn/gemm_shapes.h"
#include "tensor/planned_tensors.h"
#include "tensor/torch_dtype.h"

namespace moraine {
namespace {

// How `total` rows spread over `experts`: the average, more and less by as much as when tokens choose at random (the
// deviation is the root of the average), in even steps.
std::vector<int64_t> spread(int64_t total, int64_t experts) {
  const double count = static_cast<double>(experts), mean = static_cast<double>(total) / count;
  std::vector<double> shares;
  for (int64_t e = 0; e < experts; ++e)
    shares.push_back(std::max(0.0, mean + std::sqrt(3 * mean) * ((2 * static_cast<double>(e) + 1) / count - 1)));
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  std::vector<int64_t> rows;
  double wanted = 0;
  int64_t given = 0;
  for (double share : shares) {
    if (total > 0) wanted += share / sum * static_cast<double>(total);
    rows.push_back(std::llround(wanted) - given);
    given += rows.back();
  }
  return rows;
}

PlannedCounts planned_counts(const PlannedModel& model, const PassShape& pass) {
  PlannedCounts counts;
  counts.sent_E = spread(pass.tokens() * model.shape.num_experts_per_tok, model.shape.num_experts);
  if (pass.ep == 1) return counts;
  const std::vector<int64_t> received = spread(pass.received_rows, pass.local_experts);
  for (int64_t rank = 0; rank < pass.ep; ++rank)
    for (int64_t rows : received) counts.received.push_back(rows / pass.ep + (rank < rows % pass.ep));
  return counts;
}

Batch planned_batch(const PlannedModel& model, const PassShape& pass) {
  const auto whole_numbers = at::TensorOptions().dtype(at::kLong).device(at::kMeta);
  Batch batch;
  for (int64_t s = 1; s <= pass.sequences; ++s) batch.cu_seqlens.push_back(s * pass.length);
  for (at::Tensor* tensor : {&batch.input_ids_T, &batch.position_ids_T, &batch.targets_T})
    *tensor = at::empty({pass.tokens()}, whole_numbers);
  if (model.dropout > 0) batch.dropout_keys_T = at::empty({pass.tokens()}, whole_numbers);
  if (pass.fills_up) batch.real_T = at::empty({pass.tokens()}, whole_numbers.dtype(at::kBool));
  return batch;
}

ImageView planned_view(const ImageSpec& spec, ExpertRange experts) {
  const LayerImage image = lay_out_image(spec, experts, 1);
  return {image,
          at::empty({static_cast<int64_t>(image.nbytes)}, at::TensorOptions().dtype(at::kByte).device(at::kMeta))};
}

// A rank of the EP group that has as many experts as `pass` says.
int64_t rank_with_experts(const PlannedModel& model, const PassShape& pass) {
  int64_t rank = 0;
  while (expert_range(model.shape.num_experts, pass.ep, rank).count != pass.local_experts) ++rank;
  return rank;
}

// Runs the layers and the head of a pass, one layer of each kind.
class PassRunner {
 public:
  PassRunner(const PlannedModel& model, const PassShape& pass)
      : model_(model),
        tensors_(pass.device),
        tokens_(ProcessGroup::Planned{rank_with_experts(model, pass), pass.ep}),
        counts_(planned_counts(model, pass)),
        experts_(model.shape.num_experts, row_alignment(model, pass.device), tokens_, counts_),
        local_(experts_.local_experts()),
        batch_(planned_batch(model, pass)) {
    context_.batch = &batch_;
    context_.experts = &experts_;
    context_.balance = true;
  }

  PassRun run() {
    at::NoGradGuard no_grad;
    const Model& model = *model_.checkpoint.model;
    PassRun run;
    ProductShapes products;
    OperatorCount operators;
    {
      const ImageView root = planned_view(model_.sizes[kRootImage], local_);
      const at::Tensor hidden = model.embed(root, batch_);
      std::map<std::string, LayerRun> kinds;
      for (int64_t layer = 0; layer < model_.shape.num_hidden_layers; ++layer) {
        const auto [kind, is_new] = kinds.try_emplace(kind_of(layer));
        if (is_new) kind->second = run_layer(layer, hidden, operators);
        run.layers.push_back(kind->second);
      }
      AdapterState outer(targets([](const LoraModule& module) { return !module.in_layer(); }), local_, at::kMeta);
      outer.set_dropout(model_.dropout);
      run.head = measure_head(model, root, outer, hidden, batch_, tensors_.memory(), &operators);
      run.embedding = measure_embedding(model, root, outer, hidden, batch_, tensors_.memory());
    }
    run.batch = tensors_.memory().live();
    run.kernels = count_kernels(products.shapes(), row_counts());
    return run;
  }

 private:
  template <typename Holds>
  std::vector<LoraModule> targets(const Holds& holds) const {
    std::vector<LoraModule> targets;
    std::copy_if(model_.targets.begin(), model_.targets.end(), std::back_inserter(targets), holds);
    return targets;
  }
  std::vector<LoraModule> targets_of(int64_t layer) const {
    return targets([&](const LoraModule& module) { return module.layer == layer; });
  }

  // Equal for layers that hold the same: of one kind, with weights of the same sizes and dtypes, adapted alike.
  std::string kind_of(int64_t layer) const {
    std::string kind = fmt::format("{}", model_.checkpoint.layout().layer_kind(layer));
    for (int image : {dense_image(layer), experts_image(layer)})
      for (const ParamSpec& param : model_.sizes[image].params)
        kind += fmt::format(" {} {} {}", param.name, dtype_name(param.dtype), fmt::join(param.shape, "x"));
    for (const LoraModule& module : targets_of(layer)) kind += fmt::format(" + {} {}", module.local_name, module.r);
    return kind;
  }

  LayerRun run_layer(int64_t layer, const at::Tensor& hidden, OperatorCount& operators) {
    const ImageView dense = planned_view(model_.sizes[dense_image(layer)], local_),
                    experts = planned_view(model_.sizes[experts_image(layer)], local_);
    AdapterState adapter(targets_of(layer), local_, at::kMeta);
    adapter.set_dropout(model_.dropout);
    return measure_layer(*model_.checkpoint.model, layer, dense, experts, adapter, context_, hidden, tensors_.memory(),
                         &operators);
  }

  std::set<int64_t> row_counts() const {
    std::vector<int64_t> rows = counts_.sent_E;
    if (tokens_.size() > 1) {
      rows.assign(local_.count, 0);
      for (size_t i = 0; i < counts_.received.size(); ++i) rows[i % local_.count] += counts_.received[i];
    }
    std::set<int64_t> filled;
    for (int64_t count : rows) filled.insert(static_cast<int64_t>(round_up(count, row_alignment(model_, at::kMeta))));
    return filled;
  }

  const PlannedModel& model_;
  PlannedTensors tensors_;  // before what is counted
  ProcessGroup tokens_;
  PlannedCounts counts_;
  ExpertParallel experts_;
  ExpertRange local_;
  Batch batch_;
  ForwardContext context_;
};

// Passes of more tokens are not run.
constexpr int64_t kMostTokens = 1 << 16;

// `pass` with `times` as few tokens, so that it can be run.
struct ShorterPass {
  PassShape pass;
  double times = 1;
};
ShorterPass shorter(const PassShape& pass) {
  ShorterPass less{pass};
  const int64_t tokens = std::max(pass.tokens(), pass.world_of_tokens / pass.ep);
  if (tokens <= kMostTokens) return less;
  less.pass.length = std::min(pass.length, kMostTokens);
  less.pass.sequences = std::min(pass.sequences, kMostTokens / less.pass.length);
  less.times = static_cast<double>(tokens) / static_cast<double>(kMostTokens / less.pass.length * less.pass.length);
  for (int64_t* count : {&less.pass.world_of_tokens, &less.pass.received_rows})
    *count = std::llround(static_cast<double>(*count) / less.times);
  return less;
}

}  // namespace

int64_t row_alignment(const PlannedModel& model, c10::Device device) {
  return gemm_row_alignment(device, torch_dtype(model.shape.dtype));
}

PassShape plan_pass(const PlannedModel& model, const PlannedRun& run, int64_t rank, double imbalance) {
  const Mesh& mesh = run.mesh;
  PassShape pass;
  pass.device = run.device.type();
  pass.length = static_cast<int64_t>(round_up(run.length_at_once(), row_alignment(model, run.device)));
  pass.fills_up = pass.length != run.length_at_once();
  pass.sequences = run.sequences_at_once(rank);
  for (int64_t peer : mesh.group(MeshAxis::kEp, rank))
    pass.world_of_tokens += run.sequences_at_once(peer) * pass.length;
  pass.ep = mesh.ep;
  pass.local_experts = expert_range(model.shape.num_experts, mesh.ep, mesh.group_rank(MeshAxis::kEp, rank)).count;
  const double share = static_cast<double>(pass.local_experts) / static_cast<double>(model.shape.num_experts);
  const int64_t choices = model.shape.num_experts_per_tok,
                balanced = std::llround(static_cast<double>(pass.world_of_tokens * choices) * share * imbalance);
  pass.received_rows = std::min(balanced, pass.world_of_tokens * std::min(choices, pass.local_experts));
  return pass;
}

const PassRun& run_pass(const PlannedModel& model, const PassShape& pass) {
  const auto [known, is_new] = model.passes->of<std::map<PassShape, PassRun>>().try_emplace(pass);
  if (is_new) {
    const ShorterPass less = shorter(pass);
    known->second = PassRunner(model, less.pass).run();
    known->second.times = less.times;
  }
  return known->second;
}

}  // namespace moraine
