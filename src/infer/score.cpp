#include "infer/score.h"

#include "adapter/adapter_collectives.h"
#include "base/error.h"
#include "run/batch.h"
#include "train/pass.h"

namespace moraine {
namespace {

// Columns of the row that the sample's tokens came from.
at::Tensor columns_of(const Sample& sample) {
  return at::tensor(sample.position_ids, at::TensorOptions().dtype(at::kLong));
}

void put_logits(at::Tensor logits_TV, const at::Tensor& hidden_TD, const at::Tensor& head_VD, const LoraPair* lora,
                const at::Tensor& columns) {
  constexpr int64_t kRows = 256;
  for (int64_t begin = 0; begin < hidden_TD.size(0); begin += kRows) {
    const int64_t n = std::min(kRows, hidden_TD.size(0) - begin);
    at::Tensor chunk = head_logits(hidden_TD.narrow(0, begin, n), head_VD, lora).to(at::kFloat).to(at::kCPU);
    logits_TV.index_copy_(0, columns.narrow(0, begin, n), chunk);
  }
}

struct RowScore {
  double loss_sum = 0;
  at::Tensor token_loss;  // [T-1], or [0] without a row
  at::Tensor logits;      // [T, V] when asked for, or [0]
};

// Scores one row of `columns` tokens. Without a row (null) this rank takes part all the same: the passes are the same
// on every rank.
RowScore score_row(LoadedModel& loaded, AdapterState* adapter, const Sample* row, int64_t columns, double loss_scale,
                   const ScoreOptions& options) {
  const auto options32 = at::TensorOptions().dtype(at::kFloat);
  RowScore result{.token_loss = at::zeros({row ? columns - 1 : 0}, options32), .logits = at::zeros({0}, options32)};
  std::vector<const Sample*> samples;
  if (row) samples.push_back(row);
  const Batch batch = make_batch(samples, loaded.device, loaded.row_alignment);
  const int64_t length = row ? static_cast<int64_t>(row->input_ids.size()) : 0;
  LossResult loss;
  if (options.grads) loss = forward_backward(loaded, *adapter, batch, loss_scale, Recompute::kFull);
  if (!options.grads || options.logits) {
    const at::Tensor hidden = forward(loaded, adapter, batch);
    const ImageView& root = loaded.weights->acquire(kRootImage);
    const at::Tensor head = loaded.model->head_weight_VD(root);
    const LayerAdapter outer = outer_adapter(adapter, batch);
    const LoraPair* lora = outer.find(kHeadModule);
    if (!options.grads) loss = chunked_cross_entropy(hidden, head, batch.targets_T, WithGradient::kNo, 1.0, lora);
    if (options.logits && row) {
      result.logits = at::zeros({columns, head.size(0)}, options32);
      if (length > 0) put_logits(result.logits, hidden.narrow(0, 0, length), head, lora, columns_of(*row));
    }
    loaded.weights->release(kRootImage);
  }
  result.loss_sum = loss.loss_sum;
  if (length > 1) {  // the last token predicts nothing
    result.token_loss.index_copy_(0, columns_of(*row).narrow(0, 1, length - 1) - 1,
                                  loss.token_loss_T.narrow(0, 0, length - 1).to(at::kCPU));
  }
  return result;
}

// Brings each rank's `own` to all[row of that rank] on rank 0, where a rank without a row (-1) gives an empty tensor.
void collect_rows(const at::Tensor& all, const at::Tensor& own, const std::vector<int64_t>& row_of_rank,
                  at::Device device, ProcessGroup& world) {
  std::vector<at::Tensor> parts;
  if (world.rank() == 0) {
    for (int64_t row : row_of_rank)
      parts.push_back(row < 0 ? at::empty({0}, own.options().device(device)) : all[row].to(device));
  }
  world.gather(parts, own.to(device), 0);
  for (size_t rank = 0; rank < parts.size(); ++rank)
    if (row_of_rank[rank] >= 0) all[row_of_rank[rank]].copy_(parts[rank]);
}

}  // namespace

ScoreResult score(LoadedModel& loaded, AdapterState* adapter, const TokensFile& tokens, const std::string& where,
                  const ScoreOptions& options, MeshGroups& groups) {
  at::NoGradGuard no_grad;
  ProcessGroup& world = *groups.world;
  ScoreResult result;
  for (const Sample& sample : tokens.samples) result.trained_tokens += count_trained_tokens(sample);
  if (result.trained_tokens == 0) throw input_error(where, "no token is trained: every label is -100", "set labels");
  if (world.rank() == 0) {
    const auto options32 = at::TensorOptions().dtype(at::kFloat);
    result.token_loss = at::zeros({tokens.rows, tokens.columns - 1}, options32);
    const int64_t vocab_size = loaded.model->shape().vocab_size;
    if (options.logits) result.logits = at::zeros({tokens.rows, tokens.columns, vocab_size}, options32);
  }

  at::Tensor loss_sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble));
  for (int64_t first = 0; first < tokens.rows; first += world.size()) {
    std::vector<int64_t> row_of_rank;
    for (int64_t row = first; row < first + world.size(); ++row) row_of_rank.push_back(row < tokens.rows ? row : -1);
    const int64_t own_row = row_of_rank[world.rank()];
    const RowScore own = score_row(loaded, adapter, own_row < 0 ? nullptr : &tokens.samples[own_row], tokens.columns,
                                   1.0 / result.trained_tokens, options);
    loss_sum += own.loss_sum;
    collect_rows(result.token_loss, own.token_loss, row_of_rank, loaded.device, world);
    if (options.logits) collect_rows(result.logits, own.logits, row_of_rank, loaded.device, world);
  }
  loss_sum = loss_sum.to(loaded.device);
  world.all_reduce(loss_sum);
  result.loss = loss_sum.item<double>() / result.trained_tokens;
  if (options.grads) reduce_gradients(*adapter, groups);
  return result;
}

}  // namespace moraine
