#include "nn/grouped_linear.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

#include "base/error.h"
#include "nn/outer_products.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Calls body(expert, first_row, num_rows) for every expert that has rows. On the CPU experts run side by side, each
// single-threaded: their GEMMs are too small to be worth splitting.
template <typename Body>
void for_each_expert(const std::vector<int64_t>& rows_of_expert, bool on_cpu, const Body& body) {
  std::vector<std::array<int64_t, 3>> busy;
  int64_t row = 0;
  for (size_t e = 0; e < rows_of_expert.size(); ++e) {
    if (rows_of_expert[e] > 0) busy.push_back({static_cast<int64_t>(e), row, rows_of_expert[e]});
    row += rows_of_expert[e];
  }
  auto run = [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowAutograd below_autograd;  // thread-local: worker threads do not inherit the caller's
    for (int64_t i = begin; i < end; ++i) body(busy[i][0], busy[i][1], busy[i][2]);
  };
  if (on_cpu && busy.size() > 1) {
    at::parallel_for(0, static_cast<int64_t>(busy.size()), 1, run);
  } else {
    run(0, static_cast<int64_t>(busy.size()));
  }
}

// What a backward pass needs of the pair besides activations. Kept as plain values: the gradients change between backward passes,
// which autograd's saved variables do not allow.
void save_pair(AutogradContext* context, const LoraPair* lora) {
  context->saved_data["scaling"] = lora ? lora->scaling : 1.0;
  if (!lora || !lora->a_grad.defined()) return;
  context->saved_data["a_grad"] = lora->a_grad;
  context->saved_data["b_grad"] = lora->b_grad;
}

at::Tensor saved_grad(AutogradContext* context, const char* name) {
  const auto found = context->saved_data.find(name);
  return found == context->saved_data.end() ? at::Tensor() : found->second.toTensor();
}

// One autograd node for W, A and B together: the low-rank activations are kept, not recomputed.
class GroupedLinear : public torch::autograd::Function<GroupedLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& w, const LoraPair* lora,
                            std::vector<int64_t> rows_of_expert) {
    at::AutoDispatchBelowAutograd below_autograd;
    const at::Tensor a = lora ? lora->a.to(x.scalar_type()) : at::Tensor();
    const at::Tensor b = lora ? lora->b.to(x.scalar_type()) : at::Tensor();
    at::Tensor y = at::empty({x.size(0), w.size(1)}, x.options());
    at::Tensor low = lora ? at::empty({x.size(0), a.size(1)}, x.options()) : at::Tensor();
    for_each_expert(rows_of_expert, x.is_cpu(), [&](int64_t e, int64_t row, int64_t n) {
      at::Tensor x_e = x.narrow(0, row, n), y_e = y.narrow(0, row, n);
      at::mm_out(y_e, x_e, w[e].t());
      if (!lora) return;
      at::Tensor low_e = low.narrow(0, row, n);
      at::mm_out(low_e, x_e, a[e].t());
      y_e.addmm_(low_e, b[e].t(), 1.0, lora->scaling);
    });
    context->save_for_backward({lora ? x : at::Tensor(), w, a, b, low});
    context->saved_data["rows_of_expert"] = std::move(rows_of_expert);
    save_pair(context, lora);
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowAutograd below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &w = saved[1], &a = saved[2], &b = saved[3], &low = saved[4];
    const double scaling = context->saved_data["scaling"].toDouble();
    const std::vector<int64_t> rows_of_expert = context->saved_data["rows_of_expert"].toIntVector();
    const at::Tensor a_grad = saved_grad(context, "a_grad"), b_grad = saved_grad(context, "b_grad");
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dx = at::empty({dy.size(0), w.size(2)}, dy.options());
    at::Tensor dlow = a.defined() ? at::empty_like(low) : at::Tensor();
    for_each_expert(rows_of_expert, dy.is_cpu(), [&](int64_t e, int64_t row, int64_t n) {
      const at::Tensor dy_e = dy.narrow(0, row, n);
      at::Tensor dx_e = dx.narrow(0, row, n);
      at::mm_out(dx_e, dy_e, w[e]);
      if (!a.defined()) return;
      at::Tensor dlow_e = dlow.narrow(0, row, n);
      at::mm_out(dlow_e, dy_e, b[e]);
      dx_e.addmm_(dlow_e, a[e], 1.0, scaling);
      if (!a_grad.defined()) return;
      add_outer_products(b_grad[e], dy_e, low.narrow(0, row, n), scaling);
      add_outer_products(a_grad[e], dlow_e, x.narrow(0, row, n), scaling);
    });
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// y + s · (x·Aᵀ)·Bᵀ in the dtype of the factors, rounded once.
class AddLora : public torch::autograd::Function<AddLora> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y, const at::Tensor& x, const LoraPair* lora) {
    at::AutoDispatchBelowAutograd below_autograd;
    const at::ScalarType master = lora->a.scalar_type();
    const at::Tensor low = at::mm(x.to(master), lora->a.t());
    context->save_for_backward({x, lora->a, lora->b, low});
    save_pair(context, lora);
    return at::addmm(y.to(master), low, lora->b.t(), 1.0, lora->scaling).to(y.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowAutograd below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &a = saved[1], &b = saved[2], &low = saved[3];
    const double scaling = context->saved_data["scaling"].toDouble();
    const at::Tensor a_grad = saved_grad(context, "a_grad"), b_grad = saved_grad(context, "b_grad");
    const at::Tensor dy = grads[0].to(a.scalar_type()).contiguous();
    const at::Tensor dlow = at::mm(dy, b).mul_(scaling);
    if (a_grad.defined()) {
      add_outer_products(b_grad, dy, low, scaling);
      add_outer_products(a_grad, dlow, x, 1.0);
    }
    return {grads[0], at::mm(dlow, a).to(x.scalar_type()), at::Tensor()};
  }
};

}  // namespace

at::Tensor grouped_linear(const at::Tensor& x_RI, const at::Tensor& w_EOI, const std::vector<int64_t>& rows_of_expert,
                          const LoraPair* lora) {
  MORAINE_ASSERT(static_cast<int64_t>(rows_of_expert.size()) == w_EOI.size(0), "one row count an expert");
  MORAINE_ASSERT(x_RI.scalar_type() == w_EOI.scalar_type(), "activations and weights differ in dtype");
  return GroupedLinear::apply(x_RI.contiguous(), w_EOI, lora, rows_of_expert);
}

at::Tensor lora_linear(const at::Tensor& x_TI, const at::Tensor& w_OI, const LoraPair* lora) {
  at::Tensor y_TO = grouped_linear(x_TI, w_OI.unsqueeze(0), {x_TI.size(0)}, nullptr);
  return lora ? AddLora::apply(y_TO, x_TI, lora) : y_TO;
}

}  // namespace moraine
