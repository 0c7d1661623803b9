#include "train/score.h"

#include "base/error.h"
#include "train/batch.h"
#include "train/pass.h"

namespace moraine {
namespace {

// Columns of the row that the sample's tokens came from.
at::Tensor columns_of(const Sample& sample) { return at::tensor(sample.position_ids, at::TensorOptions().dtype(at::kLong)); }

void put_logits(at::Tensor logits_TV, const at::Tensor& hidden_TD, const at::Tensor& head_VD, const at::Tensor& columns) {
  constexpr int64_t kRows = 256;
  for (int64_t begin = 0; begin < hidden_TD.size(0); begin += kRows) {
    const int64_t n = std::min(kRows, hidden_TD.size(0) - begin);
    at::Tensor chunk = at::mm(hidden_TD.narrow(0, begin, n), head_VD.t()).to(at::kFloat).to(at::kCPU);
    logits_TV.index_copy_(0, columns.narrow(0, begin, n), chunk);
  }
}

}  // namespace

ScoreResult score(LoadedModel& loaded, AdapterState* adapter, const TokensFile& tokens, const std::string& where,
                  const ScoreOptions& options) {
  at::NoGradGuard no_grad;
  ScoreResult result;
  for (const Sample& sample : tokens.samples) result.trained_tokens += count_trained_tokens(sample);
  if (result.trained_tokens == 0) throw input_error(where, "no token is trained: every label is -100", "set labels");
  const auto options32 = at::TensorOptions().dtype(at::kFloat);
  result.token_loss = at::zeros({tokens.rows, std::max<int64_t>(tokens.columns - 1, 0)}, options32);
  if (options.logits) result.logits = at::zeros({tokens.rows, tokens.columns, loaded.model->shape().vocab_size}, options32);

  double loss_sum = 0;
  for (int64_t row = 0; row < tokens.rows; ++row) {
    const Sample& sample = tokens.samples[row];
    if (sample.input_ids.empty()) continue;
    const Batch batch = make_batch({&sample}, loaded.device, loaded.row_alignment);
    const int64_t length = static_cast<int64_t>(sample.input_ids.size());
    LossResult loss;
    if (options.grads) {
      loss = forward_backward(loaded, *adapter, batch, 1.0 / result.trained_tokens, Recompute::kFull);
    }
    if (!options.grads || options.logits) {
      const at::Tensor hidden = forward(loaded, adapter, batch);
      const ImageView& root = loaded.weights->acquire(LoadedModel::kRootImage);
      const at::Tensor head = loaded.model->head_weight_VD(root);
      if (!options.grads) loss = chunked_cross_entropy(hidden, head, batch.targets_T, WithGradient::kNo, 1.0);
      if (options.logits) put_logits(result.logits[row], hidden.narrow(0, 0, length), head, columns_of(sample));
      loaded.weights->release(LoadedModel::kRootImage);
    }
    loss_sum += loss.loss_sum;
    const int64_t predicted = length - 1;  // the last token predicts nothing
    result.token_loss[row].index_copy_(0, columns_of(sample).narrow(0, 1, predicted) - 1,
                                       loss.token_loss_T.narrow(0, 0, predicted).to(at::kCPU));
  }
  result.loss = loss_sum / result.trained_tokens;
  return result;
}

}  // namespace moraine
