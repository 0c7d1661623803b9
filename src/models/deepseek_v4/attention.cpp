// Shape suffixes besides the header's: Q tokens of a block, S keys that any of them sees.
#include "models/deepseek_v4/attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

#include "base/bytes.h"
#include "nn/gemm_shapes.h"
#include "nn/matmul.h"

namespace moraine::deepseek_v4 {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct KeptPattern : torch::CustomClassHolder {
  explicit KeptPattern(AttentionPattern p) : pattern(std::move(p)) {}
  AttentionPattern pattern;
};

// A block of one sequence's tokens and the keys they may see.
struct Block {
  int64_t sequence = 0;
  int64_t first = 0, count = 0;                  // tokens, within the sequence
  int64_t first_key = 0, keys = 0;               // tokens seen, within the sequence
  int64_t entries = 0;                           // entries seen
  int64_t filling_tokens = 0, filling_keys = 0;  // zeros behind them

  int64_t all_tokens() const { return count + filling_tokens; }
};

// On the CPU products want shapes that occur often and not too few rows (nn/gemm_shapes.h), and lengths of sequences
// are many: blocks are filled up to few shapes.
void fill_up(Block& block, int64_t alignment) {
  if (alignment == 1) return;
  int64_t tokens = alignment;
  while (tokens < block.count) tokens *= 2;
  block.filling_tokens = tokens - block.count;
  const int64_t keys = block.keys + block.entries;
  block.filling_keys = static_cast<int64_t>(round_up(keys, kQueryBlock)) - keys;
}

template <typename Body>
void for_each_block(const AttentionPattern& pattern, int64_t alignment, const Body& body) {
  for (size_t s = 0; s + 1 < pattern.cu_seqlens.size(); ++s) {
    const int64_t length = pattern.cu_seqlens[s + 1] - pattern.cu_seqlens[s];
    for (int64_t first = 0; first < length; first += kQueryBlock) {
      Block block{.sequence = static_cast<int64_t>(s), .first = first, .count = std::min(kQueryBlock, length - first)};
      const int64_t end = first + block.count;
      block.first_key = std::max<int64_t>(0, first - (pattern.window - 1));
      block.keys = end - block.first_key;
      block.entries = pattern.rate > 0 ? end / pattern.rate : 0;
      fill_up(block, alignment);
      body(block);
    }
  }
}

struct Inputs {
  const at::Tensor &q_TND, &kv_TD, &entries_ED, &sinks_N;
  double scale;
  const AttentionPattern& pattern;

  int64_t first_token(const Block& block) const { return pattern.cu_seqlens[block.sequence] + block.first; }
  int64_t first_key(const Block& block) const { return pattern.cu_seqlens[block.sequence] + block.first_key; }
  int64_t first_entry(const Block& block) const { return pattern.cu_entries[block.sequence]; }

  // [Q, ...] of the block's tokens.
  at::Tensor tokens(const at::Tensor& x, const Block& block) const {
    const at::Tensor own = x.narrow(0, first_token(block), block.count);
    if (block.filling_tokens == 0) return own;
    std::vector<int64_t> shape = x.sizes().vec();
    shape[0] = block.filling_tokens;
    return at::cat({own, at::zeros(shape, x.options())});
  }
  // [Q·N, D]
  at::Tensor rows(const at::Tensor& x_TND, const Block& block) const { return tokens(x_TND, block).flatten(0, 1); }
  void put_rows(const at::Tensor& out_TND, const at::Tensor& rows, const Block& block) const {
    const at::Tensor own = out_TND.narrow(0, first_token(block), block.count);
    own.copy_(rows.narrow(0, 0, block.count * out_TND.size(1)).view_as(own));
  }

  at::Tensor keys_SD(const Block& block) const {
    std::vector<at::Tensor> parts{kv_TD.narrow(0, first_key(block), block.keys)};
    if (block.entries > 0) parts.push_back(entries_ED.narrow(0, first_entry(block), block.entries));
    if (block.filling_keys > 0) parts.push_back(at::zeros({block.filling_keys, kv_TD.size(1)}, kv_TD.options()));
    return parts.size() == 1 ? parts[0] : at::cat(parts);
  }

  // bool [Q, S]: what is not seen.
  at::Tensor hidden_QS(const Block& block) const {
    const auto options = kv_TD.options().dtype(at::kLong);
    const at::Tensor token = at::arange(block.first, block.first + block.count, options).unsqueeze(1);
    const at::Tensor key = at::arange(block.first_key, block.first_key + block.keys, options);
    std::vector<at::Tensor> parts{key.gt(token).logical_or_(key.le(token - pattern.window))};
    if (block.entries > 0) {
      at::Tensor hidden = at::arange(block.entries, options).ge((token + 1).floor_divide(pattern.rate));
      if (!pattern.chosen.empty() && pattern.chosen[block.sequence].defined()) hide_unchosen(hidden, block);
      parts.push_back(hidden);
    }
    if (block.filling_keys > 0) parts.push_back(at::ones({block.count, block.filling_keys}, options.dtype(at::kBool)));
    const at::Tensor hidden = at::cat(parts, 1);
    if (block.filling_tokens == 0) return hidden;
    return at::cat({hidden, at::ones({block.filling_tokens, hidden.size(1)}, hidden.options())});
  }

  // q·kᵀ·scale in fp32, -inf where hidden.
  at::Tensor scores_QNS(const at::Tensor& q_rows, const at::Tensor& keys_SD, const Block& block) const {
    at::Tensor scores = matrix_product(q_rows, keys_SD.t()).to(at::kFloat).mul_(scale);
    scores = scores.view({block.all_tokens(), q_TND.size(1), keys_SD.size(0)});
    return scores.masked_fill_(hidden_QS(block).unsqueeze(1), -std::numeric_limits<double>::infinity());
  }

 private:
  void hide_unchosen(at::Tensor& hidden, const Block& block) const {
    const int64_t begin = std::max(block.first, pattern.first_choosing), end = block.first + block.count;
    if (begin >= end) return;
    const at::Tensor chosen =
        pattern.chosen[block.sequence].narrow(0, begin - pattern.first_choosing, end - begin).to(at::kLong);
    // Only entries that the token sees are chosen, so this says it all.
    hidden.narrow(0, begin - block.first, end - begin).fill_(true).scatter_(1, chosen, false);
  }
};

class SinkAttention : public torch::autograd::Function<SinkAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& kv,
                            const std::optional<at::Tensor>& entries, const at::Tensor& sinks, double scale,
                            c10::intrusive_ptr<KeptPattern> kept) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor entries_ED = entries.value_or(at::Tensor());
    const Inputs in{q, kv, entries_ED, sinks, scale, kept->pattern};
    at::Tensor out = at::empty_like(q);
    // log of the softmax's denominator, the sink included
    at::Tensor log_sum_TN = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
    for_each_block(in.pattern, gemm_row_alignment(q.device(), q.scalar_type()), [&](const Block& block) {
      const at::Tensor keys = in.keys_SD(block);
      at::Tensor scores = in.scores_QNS(in.rows(q, block), keys, block);
      const at::Tensor log_sum = at::logaddexp(scores.logsumexp(-1), sinks);
      log_sum_TN.narrow(0, in.first_token(block), block.count).copy_(log_sum.narrow(0, 0, block.count));
      const at::Tensor probabilities = scores.sub_(log_sum.unsqueeze(-1)).exp_().to(q.scalar_type());
      in.put_rows(out, matrix_product(probabilities.view({-1, keys.size(0)}), keys), block);
    });
    context->save_for_backward({q, kv, entries_ED, sinks, log_sum_TN});
    context->saved_data["scale"] = scale;
    context->saved_data["pattern"] = c10::IValue::make_capsule(kept);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &kv = saved[1], &entries = saved[2], &sinks = saved[3], &log_sum_TN = saved[4];
    const auto kept = c10::static_intrusive_pointer_cast<KeptPattern>(context->saved_data["pattern"].toCapsule());
    const Inputs in{q, kv, entries, sinks, context->saved_data["scale"].toDouble(), kept->pattern};
    const at::Tensor d_out = grads[0].contiguous();
    at::Tensor d_q = at::empty_like(q), d_kv = at::zeros_like(kv, at::kFloat), d_entries;
    if (entries.defined()) d_entries = at::zeros_like(entries, at::kFloat);
    for_each_block(in.pattern, gemm_row_alignment(q.device(), q.scalar_type()), [&](const Block& block) {
      const at::Tensor keys = in.keys_SD(block), q_rows = in.rows(q, block), d_out_rows = in.rows(d_out, block);
      const int64_t S = keys.size(0);
      at::Tensor probabilities = in.scores_QNS(q_rows, keys, block);
      probabilities.sub_(in.tokens(log_sum_TN, block).unsqueeze(-1)).exp_();
      at::Tensor d_scores = matrix_product(d_out_rows, keys.t()).to(at::kFloat).view_as(probabilities);
      const at::Tensor dot = (probabilities * d_scores).sum(-1, /*keepdim=*/true);
      d_scores = d_scores.sub_(dot).mul_(probabilities).mul_(in.scale).to(q.scalar_type()).view({-1, S});
      in.put_rows(d_q, matrix_product(d_scores, keys), block);
      // As keys and as values.
      const at::Tensor d_keys = matrix_product(d_scores.t(), q_rows).to(at::kFloat) +
                                matrix_product(probabilities.to(q.scalar_type()).view({-1, S}).t(), d_out_rows);
      d_kv.narrow(0, in.first_key(block), block.keys).add_(d_keys.narrow(0, 0, block.keys));
      if (block.entries > 0)
        d_entries.narrow(0, in.first_entry(block), block.entries).add_(d_keys.narrow(0, block.keys, block.entries));
    });
    return {d_q,
            d_kv.to(kv.scalar_type()),
            entries.defined() ? d_entries.to(entries.scalar_type()) : at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor sink_attention(const at::Tensor& q_TND, const at::Tensor& kv_TD, const at::Tensor& entries_ED,
                          const at::Tensor& sinks_N, double scale, AttentionPattern pattern) {
  std::optional<at::Tensor> entries;
  if (entries_ED.defined()) entries = entries_ED;
  return SinkAttention::apply(q_TND, kv_TD, entries, sinks_N, scale,
                              c10::make_intrusive<KeptPattern>(std::move(pattern)));
}

}  // namespace moraine::deepseek_v4
