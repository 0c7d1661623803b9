#include "nn/grouped_linear.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <bit>
#include <span>

#include "base/error.h"
#include "nn/dropout.h"
#include "nn/grouped_mm.h"
#include "nn/matmul.h"
#include "nn/outer_products.h"
#include "nn/row_products.h"
#include "nn/saved_linear.h"
#include "tensor/execution_device.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The rows of one expert that has some.
struct BusyExpert {
  int64_t expert, first_row, num_rows;
};

std::vector<BusyExpert> busy_experts(const std::vector<int64_t>& rows_of_expert) {
  std::vector<BusyExpert> busy;
  int64_t row = 0;
  for (size_t e = 0; e < rows_of_expert.size(); ++e) {
    if (rows_of_expert[e] > 0) busy.push_back({static_cast<int64_t>(e), row, rows_of_expert[e]});
    row += rows_of_expert[e];
  }
  return busy;
}

// Calls body(experts, weight_of), where weight_of(i) is the weight [O, I] in `dtype` of the i-th of these experts, for
// all experts that have rows: at once, or, where they are quantised, as many as fit their buffer.
template <typename Body>
void for_each_busy_wave(const FrozenWeight& w, at::ScalarType dtype, const std::vector<int64_t>& rows_of_expert,
                        const Body& body) {
  const std::vector<BusyExpert> busy = busy_experts(rows_of_expert);
  const std::span<const BusyExpert> all(busy);
  if (!w.quantized()) return body(all, [&](size_t i) { return w.values[all[i].expert]; });
  const int64_t O = w.out_features(), I = w.in_features();
  const auto at_once =
      static_cast<size_t>(experts_dequantized_at_once(O * I * static_cast<int64_t>(c10::elementSize(dtype))));
  const auto size = static_cast<int64_t>(std::min(at_once, all.size()));
  at::Tensor buffer = at::empty({size, O, I}, w.values.options().dtype(dtype));
  for (size_t first = 0; first < all.size(); first += at_once) {
    const std::span<const BusyExpert> wave = all.subspan(first, std::min(at_once, all.size() - first));
    for (size_t i = 0; i < wave.size(); ++i)
      dequantize_into(buffer[static_cast<int64_t>(i)], w.of_expert(wave[i].expert));
    body(wave, [&](size_t i) { return buffer[static_cast<int64_t>(i)]; });
  }
}

// Calls body(expert, its weight, first_row, num_rows) for every expert that has rows. On the CPU experts run side by
// side, each single-threaded: their products are too small to be worth splitting.
template <typename Body>
void for_each_expert(const FrozenWeight& w, at::ScalarType dtype, const std::vector<int64_t>& rows_of_expert,
                     bool on_cpu, const Body& body) {
  for_each_busy_wave(w, dtype, rows_of_expert, [&](std::span<const BusyExpert> wave, const auto& weight_of) {
    const auto run = [&](int64_t begin, int64_t end) {
      at::AutoDispatchBelowADInplaceOrView below_autograd;  // thread-local: worker threads do not inherit the caller's
      for (int64_t i = begin; i < end; ++i) {
        const auto& [expert, first_row, num_rows] = wave[i];
        body(expert, weight_of(i), first_row, num_rows);
      }
    };
    const auto count = static_cast<int64_t>(wave.size());
    if (on_cpu && count > 1) {
      at::parallel_for(0, count, 1, run);
    } else {
      run(0, count);
    }
  });
}

// The matrix of expert e, or the one that all share.
at::Tensor of_expert(const at::Tensor& factor, int64_t e) { return factor[factor.size(0) == 1 ? 0 : e]; }

// out = x · w + scaling · low · up, with low = x · down, expert by expert; `down` and `up` are undefined without LoRA.
// Forwards they are A and B, backwards B and A.
void multiply_experts(const at::Tensor& out, const at::Tensor& x, const FrozenWeight& w, ProductPass pass,
                      const at::Tensor& down, const at::Tensor& up, const at::Tensor& low, double scaling,
                      const std::vector<int64_t>& rows_of_expert) {
  if (own_kernels_multiply(x.device(), x.scalar_type())) {
    for_each_busy_wave(
        w, x.scalar_type(), rows_of_expert, [&](std::span<const BusyExpert> wave, const auto& weight_of) {
          std::vector<RowGroup> groups;
          for (size_t i = 0; i < wave.size(); ++i) {
            RowGroup& group = groups.emplace_back(RowGroup{wave[i].first_row, wave[i].num_rows, weight_of(i), {}, {}});
            if (!down.defined()) continue;
            group.down = of_expert(down, wave[i].expert);
            group.up = of_expert(up, wave[i].expert);
          }
          row_products(out, x, groups, pass, scaling, low);
        });
    return;
  }
  const auto facing = [&](const at::Tensor& matrix) { return pass == ProductPass::kForward ? matrix.t() : matrix; };
  for_each_expert(w, x.scalar_type(), rows_of_expert, execution_device(x.device()).is_cpu(),
                  [&](int64_t e, const at::Tensor& w_e, int64_t row, int64_t n) {
                    const at::Tensor x_e = x.narrow(0, row, n), out_e = out.narrow(0, row, n);
                    matmul_into(out_e, x_e, facing(w_e));
                    if (!down.defined()) return;
                    const at::Tensor low_e = low.narrow(0, row, n);
                    matmul_into(low_e, x_e, facing(of_expert(down, e)));
                    add_matmul(out_e, low_e, facing(of_expert(up, e)), scaling);
                  });
}

// One autograd node for W, A and B together: the low-rank activations are kept, not recomputed.
class GroupedLinear : public torch::autograd::Function<GroupedLinear> {
 public:
  // `factor_dtype`: in which A, B and the low-rank activations are multiplied.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const FrozenWeight& w, const LoraPair* lora,
                            at::ScalarType factor_dtype, std::vector<int64_t> rows_of_expert) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor a = lora ? lora->a.to(factor_dtype) : at::Tensor();
    const at::Tensor b = lora ? lora->b.to(factor_dtype) : at::Tensor();
    at::Tensor y = at::empty({x.size(0), w.out_features()}, x.options());
    at::Tensor low = lora ? at::empty({x.size(0), a.size(-2)}, x.options().dtype(factor_dtype)) : at::Tensor();
    multiply_experts(y, x, w, ProductPass::kForward, a, b, low, lora ? lora->scaling : 1.0, rows_of_expert);
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
    multiply_experts(dx, dy, w, ProductPass::kBackward, b, a, dlow, scaling, rows_of_expert);
    if (a_grad.defined()) {
      add_factor_gradient(b_grad, dy, low, scaling, rows_of_expert);
      add_factor_gradient(a_grad, dlow, x, scaling, rows_of_expert);
    }
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }

 private:
  // sum_EPQ[e] += scaling · leftᵀ · right over the expert's rows; of a factor that all experts share, over all rows.
  static void add_factor_gradient(const at::Tensor& sum_EPQ, const at::Tensor& left, const at::Tensor& right,
                                  double scaling, const std::vector<int64_t>& rows_of_expert) {
    if (sum_EPQ.size(0) != static_cast<int64_t>(rows_of_expert.size()) || rows_of_expert.size() == 1)
      return add_outer_products(sum_EPQ[0], left, right, scaling);
    const std::vector<BusyExpert> busy = busy_experts(rows_of_expert);
    const auto run = [&](int64_t begin, int64_t end) {
      at::AutoDispatchBelowADInplaceOrView below_autograd;
      for (int64_t i = begin; i < end; ++i) {
        const auto& [expert, row, n] = busy[i];
        add_outer_products(sum_EPQ[expert], left.narrow(0, row, n), right.narrow(0, row, n), scaling);
      }
    };
    if (sum_EPQ.is_cpu()) {
      at::parallel_for(0, static_cast<int64_t>(busy.size()), 1, run);
    } else {
      run(0, static_cast<int64_t>(busy.size()));
    }
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
  return GroupedLinear::apply(x_RI.contiguous(), w_EOI, lora, x_RI.scalar_type(), rows_of_expert);
}

at::Tensor lora_linear(const at::Tensor& x_TI, const FrozenWeight& w_OI, const LoraPair* lora) {
  if (lora && !lora->dropout.on() && own_kernels_multiply(x_TI.device(), x_TI.scalar_type())) {
    // In the dtype of the factors as below, but without a pass over the activations for them alone.
    const LoraPair of_one_group = lora->as_expert();
    return GroupedLinear::apply(x_TI.contiguous(), w_OI.split_rows(1), &of_one_group, lora->a.scalar_type(),
                                std::vector<int64_t>{x_TI.size(0)});
  }
  at::Tensor y_TO = grouped_linear(x_TI, w_OI.split_rows(1), {x_TI.size(0)}, nullptr);
  return lora ? AddLora::apply(y_TO, x_TI, lora) : y_TO;
}

}  // namespace moraine
