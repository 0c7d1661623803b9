#include "nn/grouped_linear.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <bit>

#include "base/error.h"
#include "nn/dropout.h"
#include "nn/grouped_mm.h"
#include "nn/matmul.h"
#include "nn/outer_products.h"
#include "nn/saved_linear.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Calls body(expert, its weight [O, I] in `dtype`, first_row, num_rows) for every expert that has rows. On the CPU
// experts run side by side, each single-threaded: their GEMMs are too small to be worth splitting. Quantised experts
// come in waves that fit their buffer.
template <typename Body>
void for_each_expert(const FrozenWeight& w, at::ScalarType dtype, const std::vector<int64_t>& rows_of_expert,
                     bool on_cpu, const Body& body) {
  std::vector<std::array<int64_t, 3>> busy;
  int64_t row = 0;
  for (size_t e = 0; e < rows_of_expert.size(); ++e) {
    if (rows_of_expert[e] > 0) busy.push_back({static_cast<int64_t>(e), row, rows_of_expert[e]});
    row += rows_of_expert[e];
  }
  const int64_t count = static_cast<int64_t>(busy.size()), O = w.out_features(), I = w.in_features();
  const int64_t expert_bytes = O * I * static_cast<int64_t>(c10::elementSize(dtype));
  const int64_t wave = std::min(count, w.quantized() ? experts_dequantized_at_once(expert_bytes) : count);
  at::Tensor buffer;  // of one wave
  if (w.quantized()) buffer = at::empty({wave, O, I}, w.values.options().dtype(dtype));
  for (int64_t first = 0; first < count; first += wave) {
    const int64_t last = std::min(first + wave, count);
    if (w.quantized())
      for (int64_t i = first; i < last; ++i) dequantize_into(buffer[i - first], w.of_expert(busy[i][0]));
    auto run = [&](int64_t begin, int64_t end) {
      at::AutoDispatchBelowADInplaceOrView below_autograd;  // thread-local: worker threads do not inherit the caller's
      for (int64_t i = begin; i < end; ++i) {
        const auto& [expert, first_row, num_rows] = busy[i];
        body(expert, w.quantized() ? buffer[i - first] : w.values[expert], first_row, num_rows);
      }
    };
    if (on_cpu && last - first > 1) {
      at::parallel_for(first, last, 1, run);
    } else {
      run(first, last);
    }
  }
}

// The matrix of expert e, or the one that all share.
at::Tensor of_expert(const at::Tensor& factor, int64_t e) { return factor[factor.size(0) == 1 ? 0 : e]; }

// One autograd node for W, A and B together: the low-rank activations are kept, not recomputed.
class GroupedLinear : public torch::autograd::Function<GroupedLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const FrozenWeight& w, const LoraPair* lora,
                            std::vector<int64_t> rows_of_expert) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor a = lora ? lora->a.to(x.scalar_type()) : at::Tensor();
    const at::Tensor b = lora ? lora->b.to(x.scalar_type()) : at::Tensor();
    at::Tensor y = at::empty({x.size(0), w.out_features()}, x.options());
    at::Tensor low = lora ? at::empty({x.size(0), a.size(1)}, x.options()) : at::Tensor();
    for_each_expert(w, x.scalar_type(), rows_of_expert, x.is_cpu(),
                    [&](int64_t e, const at::Tensor& w_e, int64_t row, int64_t n) {
                      at::Tensor x_e = x.narrow(0, row, n), y_e = y.narrow(0, row, n);
                      matmul_into(y_e, x_e, w_e.t());
                      if (!lora) return;
                      at::Tensor low_e = low.narrow(0, row, n);
                      matmul_into(low_e, x_e, of_expert(a, e).t());
                      add_matmul(y_e, low_e, of_expert(b, e).t(), lora->scaling);
                    });
    SavedLinear{lora ? x : at::Tensor(), w, a, b, low, std::move(rows_of_expert)}.save(context);
    save_pair(context, lora);
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const SavedLinear saved = SavedLinear::load(context);
    const auto& [x, w, a, b, low, rows_of_expert] = saved;
    const double scaling = saved_scaling(context);
    const at::Tensor a_grad = saved_grad(context, "a_grad"), b_grad = saved_grad(context, "b_grad");
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dx = at::empty({dy.size(0), w.in_features()}, dy.options());
    at::Tensor dlow = a.defined() ? at::empty_like(low) : at::Tensor();
    const int64_t experts = static_cast<int64_t>(rows_of_expert.size());
    // The gradient of a factor that all experts share is a sum over all rows, which experts side by side cannot take.
    const auto has_own = [&](const at::Tensor& grad) { return grad.defined() && grad.size(0) == experts; };
    const bool own_a = has_own(a_grad), own_b = has_own(b_grad);
    for_each_expert(w, dy.scalar_type(), rows_of_expert, dy.is_cpu(),
                    [&](int64_t e, const at::Tensor& w_e, int64_t row, int64_t n) {
                      const at::Tensor dy_e = dy.narrow(0, row, n);
                      at::Tensor dx_e = dx.narrow(0, row, n);
                      matmul_into(dx_e, dy_e, w_e);
                      if (!a.defined()) return;
                      at::Tensor dlow_e = dlow.narrow(0, row, n);
                      matmul_into(dlow_e, dy_e, of_expert(b, e));
                      add_matmul(dx_e, dlow_e, of_expert(a, e), scaling);
                      if (own_b) add_outer_products(b_grad[e], dy_e, low.narrow(0, row, n), scaling);
                      if (own_a) add_outer_products(a_grad[e], dlow_e, x.narrow(0, row, n), scaling);
                    });
    if (b_grad.defined() && !own_b) add_outer_products(b_grad[0], dy, low, scaling);
    if (a_grad.defined() && !own_a) add_outer_products(a_grad[0], dlow, x, scaling);
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor dropped(const at::Tensor& x, const LoraDropout& dropout) {
  return dropout.on() ? dropout_factors_TI(dropout, x.size(1)).mul_(x) : x;
}

// y + s · (x·Aᵀ)·Bᵀ in the dtype of the factors, rounded once; x with dropout.
class AddLora : public torch::autograd::Function<AddLora> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y, const at::Tensor& x, const LoraPair* lora) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::ScalarType master = lora->a.scalar_type();
    const at::Tensor low = at::mm(dropped(x.to(master), lora->dropout), lora->a.t());
    context->save_for_backward({x, lora->a, lora->b, low, lora->dropout.token_keys_T});
    save_pair(context, lora);
    context->saved_data["dropout_rate"] = lora->dropout.rate;
    context->saved_data["dropout_layer_key"] = std::bit_cast<int64_t>(lora->dropout.layer_key);
    return at::addmm(y.to(master), low, lora->b.t(), 1.0, lora->scaling).to(y.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &a = saved[1], &b = saved[2], &low = saved[3];
    const double scaling = saved_scaling(context);
    const at::Tensor a_grad = saved_grad(context, "a_grad"), b_grad = saved_grad(context, "b_grad");
    const at::Tensor dy = grads[0].to(a.scalar_type()).contiguous();
    const at::Tensor dlow = at::mm(dy, b).mul_(scaling);
    const LoraDropout dropout{context->saved_data["dropout_rate"].toDouble(),
                              std::bit_cast<uint64_t>(context->saved_data["dropout_layer_key"].toInt()), saved[4]};
    at::Tensor dx = at::mm(dlow, a), into_a = x;
    if (dropout.on()) {
      at::Tensor factors_TI = dropout_factors_TI(dropout, x.size(1));
      dx.mul_(factors_TI);
      into_a = factors_TI.mul_(x);
    }
    if (a_grad.defined()) {
      add_outer_products(b_grad, dy, low, scaling);
      add_outer_products(a_grad, dlow, into_a, 1.0);
    }
    return {grads[0], dx.to(x.scalar_type()), at::Tensor()};
  }
};

}  // namespace

at::Tensor grouped_linear(const at::Tensor& x_RI, const FrozenWeight& w_EOI, const std::vector<int64_t>& rows_of_expert,
                          const LoraPair* lora) {
  MORAINE_ASSERT(static_cast<int64_t>(rows_of_expert.size()) == w_EOI.values.size(0), "one row count per expert");
  MORAINE_ASSERT(w_EOI.quantized() || x_RI.scalar_type() == w_EOI.values.scalar_type(),
                 "activations and weights differ in dtype");
  if (rows_of_expert.size() > 1 && grouped_mm_is_faster(x_RI, w_EOI))
    return grouped_mm_linear(x_RI, w_EOI, rows_of_expert, lora);
  return GroupedLinear::apply(x_RI.contiguous(), w_EOI, lora, rows_of_expert);
}

at::Tensor lora_linear(const at::Tensor& x_TI, const FrozenWeight& w_OI, const LoraPair* lora) {
  at::Tensor y_TO = grouped_linear(x_TI, w_OI.split_rows(1), {x_TI.size(0)}, nullptr);
  return lora ? AddLora::apply(y_TO, x_TI, lora) : y_TO;
}

}  // namespace moraine
