// The chunked form of Yang et al. 2024 (section 3.3), forwards and backwards. Within a chunk of L tokens, for one value
// head, with c the running sum of log_decay, e = exp(c), d = exp(c_L - c), Γ_ij = exp(c_i - c_j) for i ≥ j and 0 above,
// and S the state before the chunk:
//   A = diag(beta)·(KKᵀ ∘ Γ), strictly lower     R = diag(beta)·(V - diag(e)·K·S)     U = (I + A)⁻¹·R
//   P = QKᵀ ∘ Γ                                  O = diag(e)·Q·S + P·U                S ← e_L·S + Kᵀ·diag(d)·U
// U are the corrections that the tokens write. Only U and the next S wait for the chunk before; all else is done for
// all chunks at once. Key heads are never repeated: the G value heads of a key head lie side by side in its products
// with the state.
//
// Shape suffixes as in the header, and: C chunks, L their rows, G value heads a key head, X = G·W.
#include "nn/gated_delta_rule.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "tensor/execution_device.h"
#include "tensor/to_device.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kEpsilon = 1e-6;  // of the unit vectors: transformers' and flash-linear-attention's

at::Tensor transposed(const at::Tensor& x) { return x.transpose(-1, -2); }
at::Tensor column(const at::Tensor& x) { return x.unsqueeze(-1); }

// [T, …] → [C, L, …]; rows without a token are zero: with beta and log_decay zero they change nothing.
at::Tensor to_chunks(const at::Tensor& x, const DeltaChunks& chunks) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape[0] = chunks.count * chunks.rows;
  at::Tensor slots = shape[0] == x.size(0) && chunks.count == 1
                         ? x
                         : at::zeros(shape, x.options()).index_copy_(0, chunks.slot_of_token_T, x);
  shape[0] = chunks.rows;
  shape.insert(shape.begin(), chunks.count);
  return slots.reshape(shape);
}

at::Tensor from_chunks(const at::Tensor& x, const DeltaChunks& chunks) {
  return x.flatten(0, 1).index_select(0, chunks.slot_of_token_T);
}

// [C,K,G,L,W] ↔ [C,K,L,X]
at::Tensor side_by_side(const at::Tensor& x_CKGLW) { return x_CKGLW.transpose(2, 3).flatten(3, 4); }
at::Tensor by_value_head(const at::Tensor& x_CKLX, int64_t value_width) {
  return x_CKLX.unflatten(3, {-1, value_width}).transpose(2, 3);
}
// S_CKDX · factor_CKG
at::Tensor scaled_state(const at::Tensor& s_CKDX, const at::Tensor& factor_CKG) {
  return (s_CKDX.unflatten(3, {factor_CKG.size(2), -1}) * column(factor_CKG.unsqueeze(2))).flatten(3, 4);
}

at::Tensor row_sums_less_column_sums(const at::Tensor& x) { return x.sum(-1).sub_(x.sum(-2)); }

at::Tensor inverse_length(const at::Tensor& x) { return x.square().sum(-1, /*keepdim=*/true).add_(kEpsilon).rsqrt_(); }

// d / dx of x · inverse_length(x)
at::Tensor unit_backward(const at::Tensor& d_unit, const at::Tensor& x) {
  const at::Tensor inverse = inverse_length(x), unit = x * inverse;
  return (d_unit - unit * (unit * d_unit).sum(-1, /*keepdim=*/true)).mul_(inverse);
}

// Along the last dim. Where the same bits are wanted each time, libtorch refuses CUDA's cumsum; within a chunk a
// product with ones does as well.
at::Tensor running_sum(const at::Tensor& x) {
  if (execution_device(x.device()).is_cpu() || !at::globalContext().deterministicAlgorithms()) return x.cumsum(-1);
  return at::matmul(x, at::ones({x.size(-1), x.size(-1)}, x.options()).triu());
}

// What both passes begin with.
struct ChunkedInput {
  at::Tensor q_CKLD, k_CKLD, v_CKGLW, beta_CKGL;
  at::Tensor e_CKGL, d_CKGL;    // decay since the chunk's begin, and until its end
  at::Tensor gamma_CKGLL;       // Γ
  at::Tensor a_CKGLL, p_CKGLL;  // A with its diagonal, P

  ChunkedInput(const at::Tensor& q_TKD, const at::Tensor& k_TKD, const at::Tensor& v_TVW,
               const at::Tensor& log_decay_TV, const at::Tensor& beta_TV, const DeltaChunks& chunks) {
    const at::ScalarType dtype = v_TVW.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const int64_t key_heads = k_TKD.size(1), value_heads = v_TVW.size(1);
    const std::vector<int64_t> heads{key_heads, value_heads / key_heads};
    const auto by_key_head = [&](const at::Tensor& x_TKD, double scale) {
      at::Tensor x = x_TKD.to(dtype);
      return to_chunks(x * inverse_length(x).mul_(scale), chunks).transpose(1, 2).contiguous();
    };
    const auto of_value_heads = [&](const at::Tensor& x_TV) {
      return to_chunks(x_TV.to(dtype), chunks).unflatten(2, heads).permute({0, 2, 3, 1}).contiguous();
    };
    q_CKLD = by_key_head(q_TKD, scale_of(q_TKD));
    k_CKLD = by_key_head(k_TKD, 1.0);
    v_CKGLW = to_chunks(v_TVW.to(dtype), chunks).unflatten(2, heads).permute({0, 2, 3, 1, 4}).contiguous();
    beta_CKGL = of_value_heads(beta_TV);
    const at::Tensor c_CKGL = running_sum(of_value_heads(log_decay_TV));
    e_CKGL = c_CKGL.exp();
    d_CKGL = (c_CKGL.narrow(-1, chunks.rows - 1, 1) - c_CKGL).exp_();
    // Masked before exp: what lies above the diagonal may overflow.
    const at::Tensor above = at::ones({chunks.rows, chunks.rows}, v_TVW.options().dtype(at::kBool)).triu(1);
    gamma_CKGLL =
        (column(c_CKGL) - c_CKGL.unsqueeze(-2)).masked_fill_(above, -std::numeric_limits<double>::infinity()).exp_();
    a_CKGLL = (at::matmul(k_CKLD, transposed(k_CKLD)).unsqueeze(2) * gamma_CKGLL).mul_(column(beta_CKGL));
    p_CKGLL = at::matmul(q_CKLD, transposed(k_CKLD)).unsqueeze(2) * gamma_CKGLL;
  }

  static double scale_of(const at::Tensor& q_TKD) { return 1.0 / std::sqrt(static_cast<double>(q_TKD.size(2))); }
  at::Tensor whole_decay_CKG() const { return e_CKGL.select(-1, e_CKGL.size(-1) - 1); }
};

// (I + A)⁻¹; only what lies below A's diagonal counts.
at::Tensor inverse_of_unit_lower(const at::Tensor& a_CKGLL) {
  const at::Tensor a = a_CKGLL.flatten(0, 2), identity = at::eye(a.size(-1), a.options()).expand_as(a);
  at::Tensor inverse = at::empty_like(a);
  const auto solve = [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;  // thread-local
    at::Tensor part = inverse.narrow(0, begin, end - begin);
    at::linalg_solve_triangular_out(part, a.narrow(0, begin, end - begin), identity.narrow(0, begin, end - begin),
                                    /*upper=*/false, /*left=*/true, /*unitriangular=*/true);
  };
  // libtorch's CPU code solves one system after another.
  if (a.is_cpu()) {
    at::parallel_for(0, a.size(0), 16, solve);
  } else {
    solve(0, a.size(0));
  }
  return inverse.view_as(a_CKGLL);
}

// From the gradient of the state after each chunk to that of the state before it. Returns the gradients of R and of the
// states after the chunks.
std::pair<at::Tensor, at::Tensor> recurrence_backward(const ChunkedInput& in, const at::Tensor& inverse_CKGLL,
                                                      const at::Tensor& s_CKDX, const at::Tensor& do_CKGLW,
                                                      const DeltaChunks& chunks) {
  const int64_t width = do_CKGLW.size(4);
  const at::Tensor ds_from_output_CKDX = at::matmul(transposed(in.q_CKLD), side_by_side(do_CKGLW * column(in.e_CKGL)));
  // Holds the gradient of U until a step's turn.
  const at::Tensor dr_CKGLW = at::matmul(transposed(in.p_CKGLL), do_CKGLW), ds_after_CKDX = at::zeros_like(s_CKDX);
  const std::vector<int64_t>& sequences = chunks.sequences_of_step;
  int64_t first = chunks.count;
  for (int64_t step = static_cast<int64_t>(sequences.size()) - 1; step >= 0; --step) {
    const int64_t n = sequences[step];
    first -= n;
    const auto now = [&](const at::Tensor& x) { return x.narrow(0, first, n); };
    const at::Tensor k = now(in.k_CKLD), ds_after = now(ds_after_CKDX), dr = now(dr_CKGLW);
    dr.add_(by_value_head(at::matmul(k, ds_after), width) * column(now(in.d_CKGL)));
    dr.copy_(at::matmul(transposed(now(inverse_CKGLL)), dr));
    if (step == 0) break;
    at::Tensor ds = scaled_state(ds_after, now(in.whole_decay_CKG())).add_(now(ds_from_output_CKDX));
    ds.sub_(at::matmul(transposed(k), side_by_side(dr * column(now(in.beta_CKGL) * now(in.e_CKGL)))));
    ds_after_CKDX.narrow(0, first - sequences[step - 1], n).copy_(ds);
  }
  return {dr_CKGLW, ds_after_CKDX};
}

// Keeps its input, the states before each chunk, (I + A)⁻¹ and U for the backward pass.
class GatedDeltaRule : public torch::autograd::Function<GatedDeltaRule> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q_TKD, const at::Tensor& k_TKD,
                            const at::Tensor& v_TVW, const at::Tensor& log_decay_TV, const at::Tensor& beta_TV,
                            const DeltaChunks* chunks, at::Tensor* state) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const ChunkedInput in(q_TKD, k_TKD, v_TVW, log_decay_TV, beta_TV, *chunks);
    const int64_t width = v_TVW.size(2);
    const at::Tensor inverse_CKGLL = inverse_of_unit_lower(in.a_CKGLL);
    const at::Tensor u_CKGLW = at::empty_like(in.v_CKGLW);
    const at::Tensor s_CKDX = at::empty(
        {chunks->count, k_TKD.size(1), k_TKD.size(2), v_TVW.size(1) / k_TKD.size(1) * width}, in.v_CKGLW.options());
    const std::vector<int64_t>& sequences = chunks->sequences_of_step;
    if (state && state->defined()) {
      s_CKDX.narrow(0, 0, 1).copy_(*state);
    } else {
      s_CKDX.narrow(0, 0, sequences[0]).zero_();
    }
    for (int64_t step = 0, first = 0; step < static_cast<int64_t>(sequences.size()); ++step) {
      const int64_t n = sequences[step], next = first + n;
      const bool last = step + 1 == static_cast<int64_t>(sequences.size());
      const auto now = [&](const at::Tensor& x) { return x.narrow(0, first, n); };
      const at::Tensor k = now(in.k_CKLD), s = now(s_CKDX);
      const at::Tensor read = by_value_head(at::matmul(k, s), width);
      const at::Tensor r = (now(in.v_CKGLW) - read * column(now(in.e_CKGL))).mul_(column(now(in.beta_CKGL)));
      const at::Tensor u = now(u_CKGLW).copy_(at::matmul(now(inverse_CKGLL), r));
      if (!last || state) {
        const int64_t go_on = last ? n : sequences[step + 1];
        const at::Tensor written = side_by_side((u * column(now(in.d_CKGL))).narrow(0, 0, go_on));
        const at::Tensor s_after = scaled_state(s.narrow(0, 0, go_on), now(in.whole_decay_CKG()).narrow(0, 0, go_on))
                                       .add_(at::matmul(transposed(k.narrow(0, 0, go_on)), written));
        if (last) {
          *state = s_after;
        } else {
          s_CKDX.narrow(0, next, go_on).copy_(s_after);
        }
      }
      first = next;
    }
    at::Tensor o_CKGLW = by_value_head(at::matmul(in.q_CKLD, s_CKDX), width) * column(in.e_CKGL);
    o_CKGLW += at::matmul(in.p_CKGLL, u_CKGLW);
    context->save_for_backward({q_TKD, k_TKD, v_TVW, log_decay_TV, beta_TV, inverse_CKGLL, u_CKGLW, s_CKDX});
    context->saved_data["chunks"] = reinterpret_cast<int64_t>(chunks);
    return to_tokens(o_CKGLW, *chunks).to(v_TVW.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q_TKD = saved[0], &k_TKD = saved[1], &v_TVW = saved[2], &log_decay_TV = saved[3],
                     &beta_TV = saved[4], &inverse_CKGLL = saved[5], &u_CKGLW = saved[6], &s_CKDX = saved[7];
    const DeltaChunks& chunks = *reinterpret_cast<const DeltaChunks*>(context->saved_data["chunks"].toInt());
    const ChunkedInput in(q_TKD, k_TKD, v_TVW, log_decay_TV, beta_TV, chunks);
    const at::ScalarType dtype = in.v_CKGLW.scalar_type();
    const int64_t width = v_TVW.size(2), heads_per_key = v_TVW.size(1) / k_TKD.size(1);
    const at::Tensor do_CKGLW =
        to_chunks(grads[0].to(dtype), chunks).unflatten(2, {-1, heads_per_key}).permute({0, 2, 3, 1, 4}).contiguous();

    const auto [dr_CKGLW, ds_after_CKDX] = recurrence_backward(in, inverse_CKGLL, s_CKDX, do_CKGLW, chunks);

    // Everything else, for all chunks at once.
    at::Tensor read_CKGLW = by_value_head(at::matmul(in.k_CKLD, s_CKDX), width);
    const at::Tensor dv_CKGLW = dr_CKGLW * column(in.beta_CKGL);
    const at::Tensor da_CKGLL = at::matmul(dr_CKGLW, transposed(u_CKGLW)).neg_().tril_(-1);
    const at::Tensor dp_CKGLL = at::matmul(do_CKGLW, transposed(u_CKGLW));
    // Through R = beta · (V - e·K·S) and A = beta · (KKᵀ ∘ Γ).
    at::Tensor dbeta_CKGL = (read_CKGLW * column(in.e_CKGL)).neg_().add_(in.v_CKGLW).mul_(dr_CKGLW).sum(-1);
    dbeta_CKGL.add_(
        (at::matmul(in.k_CKLD, transposed(in.k_CKLD)).unsqueeze(2) * in.gamma_CKGLL).mul_(da_CKGLL).sum(-1));
    const at::Tensor dlog_decay_CKGL = [&] {
      // Through Γ, then e, then d and the decay of the whole state.
      at::Tensor dc_CKGL = row_sums_less_column_sums((da_CKGLL * in.a_CKGLL).addcmul_(dp_CKGLL, in.p_CKGLL));
      const at::Tensor through_e =
          by_value_head(at::matmul(in.q_CKLD, s_CKDX), width).mul_(do_CKGLW).sub_(read_CKGLW.mul_(dv_CKGLW)).sum(-1);
      read_CKGLW.reset();
      const at::Tensor through_d =
          by_value_head(at::matmul(in.k_CKLD, ds_after_CKDX), width).mul_(u_CKGLW).sum(-1).mul_(in.d_CKGL);
      const at::Tensor through_state_CKG =
          (s_CKDX * ds_after_CKDX).unflatten(3, {-1, width}).sum({2, 4}).mul_(in.whole_decay_CKG());
      dc_CKGL.addcmul_(through_e, in.e_CKGL).sub_(through_d);
      dc_CKGL.select(-1, chunks.rows - 1).add_(through_d.sum(-1).add_(through_state_CKG));
      return running_sum(dc_CKGL.flip(-1)).flip(-1);
    }();

    // Queries and keys, summed over the value heads that share them.
    const at::Tensor dqk_CKLL = (dp_CKGLL * in.gamma_CKGLL).sum(2);
    const at::Tensor dkk_CKLL = (da_CKGLL * in.gamma_CKGLL).mul_(column(in.beta_CKGL)).sum(2);
    at::Tensor dq_CKLD = at::matmul(side_by_side(do_CKGLW * column(in.e_CKGL)), transposed(s_CKDX))
                             .add_(at::matmul(dqk_CKLL, in.k_CKLD));
    at::Tensor dk_CKLD = at::matmul(side_by_side(u_CKGLW * column(in.d_CKGL)), transposed(ds_after_CKDX));
    dk_CKLD.sub_(at::matmul(side_by_side(dv_CKGLW * column(in.e_CKGL)), transposed(s_CKDX)));
    dk_CKLD.add_(at::matmul(transposed(dqk_CKLL), in.q_CKLD));
    dk_CKLD.add_(at::matmul(dkk_CKLL + transposed(dkk_CKLL), in.k_CKLD));

    const auto key_heads_to_tokens = [&](const at::Tensor& x_CKLD) {
      return from_chunks(x_CKLD.transpose(1, 2), chunks);
    };
    const auto values_to_tokens = [&](const at::Tensor& x_CKGL) {
      return from_chunks(x_CKGL.permute({0, 3, 1, 2}).flatten(2, 3), chunks);
    };
    const at::Tensor dq =
        unit_backward(key_heads_to_tokens(dq_CKLD).mul_(ChunkedInput::scale_of(q_TKD)), q_TKD.to(dtype));
    const at::Tensor dk = unit_backward(key_heads_to_tokens(dk_CKLD), k_TKD.to(dtype));
    return {dq.to(q_TKD.scalar_type()),
            dk.to(k_TKD.scalar_type()),
            to_tokens(dv_CKGLW, chunks).to(v_TVW.scalar_type()),
            values_to_tokens(dlog_decay_CKGL).to(log_decay_TV.scalar_type()),
            values_to_tokens(dbeta_CKGL).to(beta_TV.scalar_type()),
            at::Tensor(),
            at::Tensor()};
  }

 private:
  static at::Tensor to_tokens(const at::Tensor& x_CKGLW, const DeltaChunks& chunks) {
    return from_chunks(x_CKGLW.permute({0, 3, 1, 2, 4}).flatten(2, 3), chunks);
  }
};

}  // namespace

DeltaChunks plan_delta_chunks(const std::vector<int64_t>& cu_seqlens, at::Device device) {
  DeltaChunks chunks;
  std::vector<int64_t> order(cu_seqlens.size() - 1);
  std::iota(order.begin(), order.end(), 0);
  const auto length = [&](int64_t sequence) { return cu_seqlens[sequence + 1] - cu_seqlens[sequence]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return length(a) > length(b); });
  // Not fewer for shorter sequences: a row's bits then do not depend on the others of its batch. One when generating.
  chunks.rows = order.empty() ? 0 : length(order[0]) == 1 ? 1 : kDeltaChunkRows;
  std::vector<int64_t> slot_of_token(cu_seqlens.back());
  for (int64_t done = 0; !order.empty(); done += chunks.rows) {
    while (!order.empty() && length(order.back()) <= done) order.pop_back();
    if (order.empty()) break;
    chunks.sequences_of_step.push_back(static_cast<int64_t>(order.size()));
    for (int64_t sequence : order) {
      const int64_t first = cu_seqlens[sequence] + done, n = std::min(chunks.rows, length(sequence) - done);
      std::iota(slot_of_token.begin() + first, slot_of_token.begin() + first + n, chunks.count * chunks.rows);
      ++chunks.count;
    }
  }
  chunks.slot_of_token_T = to_device(slot_of_token, device);
  return chunks;
}

at::Tensor gated_delta_rule(const at::Tensor& q_TKD, const at::Tensor& k_TKD, const at::Tensor& v_TVW,
                            const at::Tensor& log_decay_TV, const at::Tensor& beta_TV, const DeltaChunks& chunks,
                            at::Tensor* state) {
  MORAINE_ASSERT(!state || chunks.sequences_of_step.empty() || chunks.sequences_of_step[0] == 1,
                 "a state serves one sequence");
  if (chunks.count == 0) return v_TVW;  // no tokens
  return GatedDeltaRule::apply(q_TKD, k_TKD, v_TVW, log_decay_TV, beta_TV, &chunks, state);
}

}  // namespace moraine
