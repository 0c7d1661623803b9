#include "models/deepseek_v4/indexer.h"

#include <limits>

namespace moraine::deepseek_v4 {
namespace {

// Scores of so many tokens are made at a time: H · E of them each.
constexpr int64_t kQueries = 128;

int64_t length_of(const std::vector<int64_t>& cu, size_t s) { return cu[s + 1] - cu[s]; }

}  // namespace

bool any_choice(const std::vector<int64_t>& cu_seqlens, const Windows& windows, int64_t index_topk) {
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s)
    if (length_of(windows.cu_entries, s) > index_topk) return true;
  return false;
}

at::Tensor index_scores(const at::Tensor& query_QHD, const at::Tensor& weight_QH, const at::Tensor& key_ED) {
  const int64_t Q = query_QHD.size(0), H = query_QHD.size(1), E = key_ED.size(0);
  const at::Tensor scores = at::mm(query_QHD.to(at::kFloat).reshape({Q * H, -1}), key_ED.to(at::kFloat).t()).relu_();
  return at::bmm(weight_QH.to(at::kFloat).unsqueeze(1), scores.view({Q, H, E})).squeeze(1);
}

std::vector<at::Tensor> choose_entries(const at::Tensor& query_THD, const at::Tensor& weight_TH,
                                       const at::Tensor& key_ED, const std::vector<int64_t>& cu_seqlens,
                                       const Windows& windows, int64_t index_topk) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> chosen(cu_seqlens.size() - 1);
  const int64_t first = first_choosing_token(index_topk, windows.rate);
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    const int64_t entries = length_of(windows.cu_entries, s);
    if (entries <= index_topk) continue;
    const at::Tensor keys = key_ED.narrow(0, windows.cu_entries[s], entries);
    std::vector<at::Tensor> parts;
    for (int64_t token = first; token < length_of(cu_seqlens, s); token += kQueries) {
      const int64_t begin = cu_seqlens[s] + token, count = std::min(kQueries, length_of(cu_seqlens, s) - token);
      at::Tensor scores = index_scores(query_THD.narrow(0, begin, count), weight_TH.narrow(0, begin, count), keys);
      const auto options = scores.options().dtype(at::kLong);
      const at::Tensor seen =
          at::arange(token + 1, token + 1 + count, options).floor_divide_(windows.rate).unsqueeze(1);
      scores.masked_fill_(at::arange(entries, options).ge(seen), -std::numeric_limits<double>::infinity());
      parts.push_back(std::get<1>(scores.topk(index_topk, -1, /*largest=*/true, /*sorted=*/false)).to(at::kInt));
    }
    chosen[s] = at::cat(parts);
  }
  return chosen;
}

}  // namespace moraine::deepseek_v4
