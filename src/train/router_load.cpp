#include "train/router_load.h"

#include <algorithm>

namespace moraine {

RouterLoad::RouterLoad(const ModelShape& shape, at::Device device) : num_experts_per_tok_(shape.num_experts_per_tok) {
  const auto options = at::TensorOptions().device(device);
  counts_LE_ = at::zeros({shape.num_hidden_layers, shape.num_experts}, options.dtype(at::kLong));
  favoured_counts_E_ = at::zeros({shape.num_experts}, options.dtype(at::kLong));
  probability_sums_E_ = at::zeros({shape.num_experts}, options.dtype(at::kDouble));
}

void RouterLoad::add(const std::vector<LayerRecord>& records) {
  for (size_t layer = 0; layer < records.size(); ++layer) {
    const LayerRecord& record = records[layer];
    if (record.expert_counts_E.defined()) counts_LE_[layer] += record.expert_counts_E;
    const at::Tensor& favoured_E =
        record.favoured_counts_E.defined() ? record.favoured_counts_E : record.expert_counts_E;
    if (favoured_E.defined()) favoured_counts_E_ += favoured_E;
    if (record.probability_sums_E.defined()) probability_sums_E_ += record.probability_sums_E.detach();
  }
}

void RouterLoad::reduce(ProcessGroup& group) {
  group.all_reduce(counts_LE_);
  group.all_reduce(favoured_counts_E_);
  group.all_reduce(probability_sums_E_);
}

double RouterLoad::rows() const {
  return favoured_counts_E_.sum().item<double>() / static_cast<double>(std::max<int64_t>(1, num_experts_per_tok_));
}

double RouterLoad::imbalance() const {
  const at::Tensor counts = counts_LE_.to(at::kDouble).cpu();
  const at::Tensor mean = counts.mean(1), used = mean > 0;
  if (!used.any().item<bool>()) return 0;
  return (std::get<0>(counts.max(1)).masked_select(used) / mean.masked_select(used)).mean().item<double>();
}

at::Tensor RouterLoad::mean_counts_E() const { return favoured_counts_E_.to(at::kDouble) / rows(); }

double RouterLoad::aux_loss() const {
  if (rows() == 0) return 0;
  const at::Tensor mean_probabilities_E = probability_sums_E_ / rows();
  return static_cast<double>(counts_LE_.size(1)) * (mean_counts_E() * mean_probabilities_E).sum().item<double>();
}

at::Tensor RouterLoad::aux_loss_gradient_E() const {
  if (rows() == 0) return at::zeros_like(probability_sums_E_);
  return mean_counts_E() * (static_cast<double>(counts_LE_.size(1)) / rows());
}

}  // namespace moraine
