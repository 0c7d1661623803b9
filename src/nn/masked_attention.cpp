// A sink is one more logit of the softmax: with l = log Σ exp(scores) its columns are those of plain attention times
// sigmoid(l - sink), and the log-sum-exp becomes logaddexp(l, sink). The backward pass of plain attention takes output
// and log-sum-exp and makes of them p = exp(score - l) and d score = p · (d p - d out · out): given those with the sink
// it computes the gradient with the sink.
//
// Shape suffixes besides the header's: Q queries of a block, G query heads of a key head.
#include "nn/masked_attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/execution_device.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kLeastQueries = 128, kMostQueries = 512;  // of a block

// Queries that are attended together, and the keys that any of them sees.
struct QueryBlock {
  int64_t first = 0, count = 0;     // queries
  int64_t first_key = 0, keys = 0;  // keys
  int64_t position = 0;             // of the first query among those keys

  at::Tensor queries(const at::Tensor& x_TND) const { return x_TND.narrow(0, first, count); }
  at::Tensor seen(const at::Tensor& x_SKD) const { return x_SKD.narrow(0, first_key, keys); }
  bool is_triangle() const { return position == 0 && keys == count; }
};

// The last T of S positions, `size` queries a block. window 0: none.
std::vector<QueryBlock> query_blocks(int64_t T, int64_t S, int64_t window, int64_t size) {
  std::vector<QueryBlock> blocks;
  for (int64_t first = 0; first < T; first += size) {
    const int64_t count = std::min(size, T - first), position = S - T + first;
    const int64_t first_key = window > 0 ? std::max<int64_t>(0, position - (window - 1)) : 0;
    blocks.push_back({first, count, first_key, position + count - first_key, position - first_key});
  }
  return blocks;
}

// What is seen by whom: of neighbouring blocks mostly the same, so the last one is kept.
class Masks {
 public:
  Masks(const at::Tensor& q, int64_t window) : options_(q.options()), window_(window) {}

  // bool [Q, S]: what is not seen; undefined where everything is.
  at::Tensor hidden_QS(const QueryBlock& block) {
    const bool sees_all = block.count == 1 && (window_ == 0 || block.keys <= window_);
    if (sees_all) return {};
    if (mask_.defined() && same(block)) return mask_;
    const auto long_options = options_.dtype(at::kLong);
    const at::Tensor query = at::arange(block.position, block.position + block.count, long_options).unsqueeze(1);
    const at::Tensor key = at::arange(block.keys, long_options);
    mask_ = key.gt(query);
    if (window_ > 0) mask_ = mask_.logical_or_(key.le(query - window_));
    of_ = block;
    return mask_;
  }

 private:
  bool same(const QueryBlock& block) const {
    return of_.count == block.count && of_.keys == block.keys && of_.position == block.position;
  }

  at::TensorOptions options_;
  int64_t window_;
  QueryBlock of_;
  at::Tensor mask_;
};

// Output and log-sum-exp with the sinks, of those without: out [..., N, Q, D] or [..., Q, N, D], log_sum likewise
// without D; `sinks` broadcasts to log_sum.
void add_sinks(at::Tensor& out, at::Tensor& log_sum, const at::Tensor& sinks) {
  if (!sinks.defined()) return;
  out = (out.to(at::kFloat) * (log_sum - sinks).sigmoid_().unsqueeze(-1)).to(out.scalar_type());
  log_sum = at::logaddexp(log_sum, sinks);
}

// The ways to compute it, each with what its backward pass needs of the log-sum-exp.
class Way {
 public:
  Way(int64_t window, at::Tensor sinks_N) : window_(window), sinks_N_(std::move(sinks_N)) {}
  virtual ~Way() = default;
  // Returns out [T, N, D]; `kept` gets what backward takes.
  virtual at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, variable_list& kept) = 0;
  virtual variable_list backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& out, const variable_list& kept) = 0;

 protected:
  int64_t window_;
  at::Tensor sinks_N_;
};

// The CPU's flash attention with a mask. It wants as many heads of keys as of queries.
class HostKernel : public Way {
 public:
  using Way::Way;

  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, variable_list& kept) override {
    const at::Tensor k_SND = repeated(k, q), v_SND = repeated(v, q);
    const at::Tensor sinks = sinks_N_.defined() ? sinks_N_.view({1, -1, 1}) : at::Tensor();
    std::vector<at::Tensor> outputs, log_sums;
    Masks masks(q, window_);
    for (const QueryBlock& block : blocks(q, k)) {
      auto [out, log_sum] = at::_scaled_dot_product_flash_attention_for_cpu(
          by_head(block.queries(q)), by_head(block.seen(k_SND)), by_head(block.seen(v_SND)), 0.0, causal(block),
          bias(masks, block, q));
      add_sinks(out, log_sum, sinks);
      outputs.push_back(out.squeeze(0).transpose(0, 1));
      log_sums.push_back(log_sum);
    }
    if (outputs.empty()) {
      kept = {at::empty({1, q.size(1), 0}, q.options().dtype(at::kFloat))};
      return at::empty_like(q);
    }
    kept = {log_sums.size() == 1 ? log_sums[0] : at::cat(log_sums, 2)};
    return outputs.size() == 1 ? outputs[0].contiguous() : at::cat(outputs);
  }

  variable_list backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         const at::Tensor& out, const variable_list& kept) override {
    const at::Tensor k_SND = repeated(k, q), v_SND = repeated(v, q);
    at::Tensor d_q = at::empty_like(q), d_k = at::zeros_like(k, at::kFloat), d_v = at::zeros_like(v, at::kFloat);
    Masks masks(q, window_);
    for (const QueryBlock& block : blocks(q, k)) {
      const auto [d_q_b, d_k_b, d_v_b] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          by_head(block.queries(d_out)), by_head(block.queries(q)), by_head(block.seen(k_SND)),
          by_head(block.seen(v_SND)), by_head(block.queries(out)), kept[0].narrow(2, block.first, block.count), 0.0,
          causal(block), bias(masks, block, q));
      block.queries(d_q).copy_(d_q_b.squeeze(0).transpose(0, 1));
      add_heads(block.seen(d_k), d_k_b);
      add_heads(block.seen(d_v), d_v_b);
    }
    return {d_q, d_k.to(k.scalar_type()), d_v.to(v.scalar_type())};
  }

 private:
  static at::Tensor by_head(const at::Tensor& x_TND) { return x_TND.transpose(0, 1).unsqueeze(0); }
  static at::Tensor repeated(const at::Tensor& x_SKD, const at::Tensor& q_TND) {
    const int64_t times = q_TND.size(1) / x_SKD.size(1);
    return times == 1 ? x_SKD : x_SKD.repeat_interleave(times, 1);
  }
  // sum_SKD += Σ of each key head's queries' of x [1, N, S, D].
  static void add_heads(const at::Tensor& sum_SKD, const at::Tensor& x) {
    const at::Tensor by_key_head = x.squeeze(0).unflatten(0, {sum_SKD.size(1), -1});
    sum_SKD.add_(by_key_head.sum(1, /*keepdim=*/false, at::kFloat).transpose(0, 1));
  }
  bool causal(const QueryBlock& block) const { return window_ == 0 && block.is_triangle() && block.count > 1; }
  // What is added to the scores.
  std::optional<at::Tensor> bias(Masks& masks, const QueryBlock& block, const at::Tensor& q) const {
    if (causal(block)) return std::nullopt;
    const at::Tensor hidden = masks.hidden_QS(block);
    if (!hidden.defined()) return std::nullopt;
    return at::zeros(hidden.sizes(), q.options()).masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  }
  // Without a window all queries of a sequence that begins here are one: the kernel has blocks of its own.
  std::vector<QueryBlock> blocks(const at::Tensor& q, const at::Tensor& k) const {
    const int64_t T = q.size(0), S = k.size(0);
    if (window_ == 0 && T == S) return query_blocks(T, S, 0, std::max<int64_t>(1, T));
    return query_blocks(T, S, window_, std::clamp(window_, kLeastQueries, kMostQueries));
  }
};

// A GPU's flash attention, which knows windows and grouped queries. Of whole sequences.
class DeviceKernel : public Way {
 public:
  using Way::Way;

  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, variable_list& kept) override {
    if (q.is_meta()) return planned(q, k, v, kept);
    auto [out, log_sum, random_state, unused, mask] = at::_flash_attention_forward(
        q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), std::nullopt, std::nullopt, q.size(0), k.size(0), 0.0,
        /*is_causal=*/true, /*return_debug_mask=*/false, scale(q), left(), right());
    at::Tensor out_TND = out.squeeze(0), by_token = log_sum.transpose(1, 2).squeeze(0);
    add_sinks(out_TND, by_token, sinks_N_);
    kept = {sinks_N_.defined() ? by_token.t().contiguous().unsqueeze(0) : log_sum, random_state, unused};
    return out_TND;
  }

  variable_list backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         const at::Tensor& out, const variable_list& kept) override {
    if (q.is_meta()) return planned_backward(d_out, q, k, v, out, kept);
    const auto [d_q, d_k, d_v] = at::_flash_attention_backward(
        d_out.unsqueeze(0), q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), out.unsqueeze(0), kept[0], at::Tensor(),
        at::Tensor(), q.size(0), k.size(0), 0.0, /*is_causal=*/true, kept[1], kept[2], scale(q), left(), right());
    return {d_q.squeeze(0), d_k.squeeze(0), d_v.squeeze(0)};
  }

 private:
  static std::optional<double> scale(const at::Tensor& q) { return 1 / std::sqrt(static_cast<double>(q.size(2))); }
  std::optional<int64_t> left() const { return window_ > 0 ? std::optional(window_ - 1) : std::nullopt; }
  std::optional<int64_t> right() const { return window_ > 0 ? std::optional<int64_t>(0) : std::nullopt; }

  // Operators that meta tensors have, of the same products and sizes: a window's in blocks.
  std::vector<QueryBlock> planned_blocks(const at::Tensor& q, const at::Tensor& k) const {
    const int64_t size = window_ > 0 ? std::max(window_, kLeastQueries) : std::max<int64_t>(1, q.size(0));
    return query_blocks(q.size(0), k.size(0), window_, size);
  }
  static at::Tensor by_head(const at::Tensor& x_TND) { return x_TND.transpose(0, 1).unsqueeze(0); }
  at::Tensor planned(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, variable_list& kept) const {
    for (const QueryBlock& block : planned_blocks(q, k))
      at::_scaled_dot_product_flash_attention_for_cpu(by_head(block.queries(q)), by_head(block.seen(k)),
                                                      by_head(block.seen(v)), 0.0, block.is_triangle());
    at::Tensor out = at::empty_like(q), log_sum = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
    add_sinks(out, log_sum, sinks_N_);
    kept = {log_sum};
    return out;
  }
  variable_list planned_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& out, const variable_list& kept) const {
    for (const QueryBlock& block : planned_blocks(q, k))
      at::_scaled_dot_product_flash_attention_for_cpu_backward(
          by_head(block.queries(d_out)), by_head(block.queries(q)), by_head(block.seen(k)), by_head(block.seen(v)),
          by_head(block.queries(out)), block.queries(kept[0]).t().unsqueeze(0), 0.0, block.is_triangle());
    return {at::empty_like(q), at::empty_like(k), at::empty_like(v)};
  }
};

// Products and a softmax in fp32, block by block: what every device has.
class Operators : public Way {
 public:
  using Way::Way;

  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, variable_list& kept) override {
    at::Tensor out = at::empty_like(q), log_sum_NT = at::empty({q.size(1), q.size(0)}, q.options().dtype(at::kFloat));
    const at::Tensor sinks = sinks_N_.defined() ? sinks_N_.view({k.size(1), q.size(1) / k.size(1), 1}) : at::Tensor();
    Masks masks(q, window_);
    for (const QueryBlock& block : query_blocks(q.size(0), k.size(0), window_, kLeastQueries)) {
      at::Tensor scores = scores_KGQS(block, q, k, masks), log_sum = scores.logsumexp(-1);
      if (sinks.defined()) log_sum = at::logaddexp(log_sum, sinks);
      const at::Tensor p = scores.sub_(log_sum.unsqueeze(-1)).exp_().to(v.scalar_type());
      put(block.queries(out), at::bmm(p.flatten(1, 2), block.seen(v).transpose(0, 1)));
      log_sum_NT.narrow(1, block.first, block.count).copy_(log_sum.flatten(0, 1));
    }
    kept = {log_sum_NT};
    return out;
  }

  variable_list backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         const at::Tensor& out, const variable_list& kept) override {
    at::Tensor d_q = at::empty_like(q), d_k = at::zeros_like(k, at::kFloat), d_v = at::zeros_like(v, at::kFloat);
    const int64_t key_heads = k.size(1), each = q.size(1) / key_heads;
    Masks masks(q, window_);
    for (const QueryBlock& block : query_blocks(q.size(0), k.size(0), window_, kLeastQueries)) {
      at::Tensor p = scores_KGQS(block, q, k, masks);
      p.sub_(kept[0].narrow(1, block.first, block.count).unflatten(0, {key_heads, each}).unsqueeze(-1)).exp_();
      const at::Tensor d_out_KRD = rows(block.queries(d_out), key_heads);
      at::Tensor d_scores = at::bmm(d_out_KRD, block.seen(v).permute({1, 2, 0})).to(at::kFloat).view_as(p);
      const at::Tensor dots = (d_out_KRD.to(at::kFloat) * rows(block.queries(out), key_heads)).sum(-1);
      d_scores.sub_(dots.view({key_heads, each, block.count, 1})).mul_(p).mul_(scale(q));
      const at::Tensor d_scores_KRS = d_scores.to(q.scalar_type()).flatten(1, 2),
                       q_KRD = rows(block.queries(q), key_heads);
      put(block.queries(d_q), at::bmm(d_scores_KRS, block.seen(k).transpose(0, 1)));
      block.seen(d_k).add_(at::bmm(d_scores_KRS.transpose(1, 2), q_KRD).transpose(0, 1));
      block.seen(d_v).add_(at::bmm(p.to(v.scalar_type()).flatten(1, 2).transpose(1, 2), d_out_KRD).transpose(0, 1));
    }
    return {d_q, d_k.to(k.scalar_type()), d_v.to(v.scalar_type())};
  }

 private:
  static double scale(const at::Tensor& q) { return 1 / std::sqrt(static_cast<double>(q.size(2))); }
  // [Q, N, D] → [K, G·Q, D]
  static at::Tensor rows(const at::Tensor& x_QND, int64_t key_heads) {
    return x_QND.unflatten(1, {key_heads, -1}).permute({1, 2, 0, 3}).reshape({key_heads, -1, x_QND.size(2)});
  }
  // The way back.
  static void put(const at::Tensor& out_QND, const at::Tensor& x_KRD) {
    out_QND.unflatten(1, {x_KRD.size(0), -1}).copy_(x_KRD.unflatten(1, {-1, out_QND.size(0)}).permute({2, 0, 1, 3}));
  }
  static at::Tensor scores_KGQS(const QueryBlock& block, const at::Tensor& q, const at::Tensor& k, Masks& masks) {
    const int64_t key_heads = k.size(1);
    at::Tensor scores = at::bmm(rows(block.queries(q), key_heads), block.seen(k).permute({1, 2, 0})).to(at::kFloat);
    scores = scores.mul_(scale(q)).view({key_heads, -1, block.count, block.keys});
    const at::Tensor hidden = masks.hidden_QS(block);
    return hidden.defined() ? scores.masked_fill_(hidden, -std::numeric_limits<double>::infinity()) : scores;
  }
};

std::unique_ptr<Way> way_for(const at::Tensor& q, const at::Tensor& k, int64_t window, const at::Tensor& sinks_N) {
  if (execution_device(q.device()).is_cpu()) return std::make_unique<HostKernel>(window, sinks_N);
  // With a cache the kernel's triangle would begin elsewhere.
  if (has_flash_attention(q) && q.size(0) == k.size(0) && q.size(0) > 0)
    return std::make_unique<DeviceKernel>(window, sinks_N);
  return std::make_unique<Operators>(window, sinks_N);
}

class MaskedAttention : public torch::autograd::Function<MaskedAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            int64_t window, const std::optional<at::Tensor>& sinks) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor sinks_N = sinks ? sinks->to(at::kFloat) : at::Tensor();
    variable_list kept;
    const at::Tensor out = way_for(q, k, window, sinks_N)->forward(q, k, v, kept);
    variable_list saved{q, k, v, out};
    saved.insert(saved.end(), kept.begin(), kept.end());
    context->save_for_backward(saved);
    context->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
    const variable_list kept(saved.begin() + 4, saved.end());
    const int64_t window = context->saved_data["window"].toInt();
    variable_list d = way_for(q, k, window, {})->backward(grads[0].contiguous(), q, k, v, out, kept);
    d.resize(5);
    return d;
  }
};

}  // namespace

bool has_flash_attention(const at::Tensor& q) {
  const bool is_half = q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf;
  const int64_t width = q.size(-1);
  return !execution_device(q.device()).is_cpu() && is_half && width <= 256 && width % 8 == 0;
}

at::Tensor masked_attention(const at::Tensor& q_TND, const at::Tensor& k_SKD, const at::Tensor& v_SKD, int64_t window,
                            const at::Tensor& sinks_N) {
  std::optional<at::Tensor> sinks;
  if (sinks_N.defined()) sinks = sinks_N;
  return MaskedAttention::apply(q_TND, k_SKD, v_SKD, window, sinks);
}

}  // namespace moraine
