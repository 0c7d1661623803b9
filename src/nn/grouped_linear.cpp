#include "nn/grouped_linear.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/error.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Calls body(expert, its weight [O, I] in `dtype`, first_row, num_rows) for every expert that has rows. On the CPU experts run side by
// side, each single-threaded: their GEMMs are too small to be worth splitting. Quantised experts come in waves that fit their buffer.
template <typename Body>
void for_each_expert(const FrozenWeight& w, at::ScalarType dtype, const std::vector<int64_t>& rows_of_expert, bool on_cpu,
                     const Body& body) {
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
      at::AutoDispatchBelowAutograd below_autograd;  // thread-local: worker threads do not inherit the caller's
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

// One autograd node for W, A and B together: W needs no gradient, and the low-rank activations are kept, not recomputed. A and B come
// in the dtype of their masters and their gradients leave in it: sums over rows that were rounded to the compute dtype would depend
// on which rows share a micro-batch or a rank.
class GroupedLinear : public torch::autograd::Function<GroupedLinear> {
 public:
  // `lora_a` and `lora_b` are both there or both not.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& w_values,
                            const std::optional<at::Tensor>& w_scale, const std::optional<at::Tensor>& lora_a,
                            const std::optional<at::Tensor>& lora_b, double scaling, std::vector<int64_t> rows_of_expert) {
    at::AutoDispatchBelowAutograd below_autograd;
    const bool adapted = lora_a.has_value();
    const at::Tensor a = adapted ? lora_a->to(x.scalar_type()) : at::Tensor();
    const at::Tensor b = adapted ? lora_b->to(x.scalar_type()) : at::Tensor();
    const FrozenWeight w(w_values, w_scale.value_or(at::Tensor()));
    at::Tensor y = at::empty({x.size(0), w.out_features()}, x.options());
    at::Tensor low = adapted ? at::empty({x.size(0), a.size(1)}, x.options()) : at::Tensor();
    for_each_expert(w, x.scalar_type(), rows_of_expert, x.is_cpu(), [&](int64_t e, const at::Tensor& w_e, int64_t row, int64_t n) {
      at::Tensor x_e = x.narrow(0, row, n), y_e = y.narrow(0, row, n);
      at::mm_out(y_e, x_e, w_e.t());
      if (!adapted) return;
      at::Tensor low_e = low.narrow(0, row, n);
      at::mm_out(low_e, x_e, a[e].t());
      y_e.addmm_(low_e, b[e].t(), 1.0, scaling);
    });
    context->save_for_backward({x, w.values, w.scale, a, b, low});
    context->saved_data["scaling"] = scaling;
    context->saved_data["master_dtype"] = static_cast<int64_t>(adapted ? lora_a->scalar_type() : x.scalar_type());
    context->saved_data["rows_of_expert"] = rows_of_expert;
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowAutograd below_autograd;
    const variable_list saved = context->get_saved_variables();
    const FrozenWeight w(saved[1], saved[2]);
    const at::Tensor &x = saved[0], &a = saved[3], &b = saved[4], &low = saved[5];
    const double scaling = context->saved_data["scaling"].toDouble();
    const std::vector<int64_t> rows_of_expert = context->saved_data["rows_of_expert"].toIntVector();
    const at::Tensor dy = grads[0].contiguous();
    const bool needs_dx = context->needs_input_grad(0);
    const bool adapted = a.defined();
    at::Tensor dx = needs_dx ? at::empty_like(x) : at::Tensor();
    // Experts without rows get a zero gradient, as every other unused parameter does.
    const auto master = static_cast<at::ScalarType>(context->saved_data["master_dtype"].toInt());
    at::Tensor da = adapted ? at::zeros_like(a, master) : at::Tensor(), db = adapted ? at::zeros_like(b, master) : at::Tensor();
    at::Tensor dlow = adapted ? at::empty_like(low) : at::Tensor();
    for_each_expert(w, x.scalar_type(), rows_of_expert, x.is_cpu(), [&](int64_t e, const at::Tensor& w_e, int64_t row, int64_t n) {
      at::Tensor dy_e = dy.narrow(0, row, n);
      at::Tensor dx_e = needs_dx ? dx.narrow(0, row, n) : at::Tensor();
      if (needs_dx) at::mm_out(dx_e, dy_e, w_e);
      if (!adapted) return;
      at::Tensor dlow_e = dlow.narrow(0, row, n), da_e = da[e], db_e = db[e];
      at::mm_out(dlow_e, dy_e, b[e]);
      if (needs_dx) dx_e.addmm_(dlow_e, a[e], 1.0, scaling);
      db_e.addmm_(dy_e.to(master).t(), low.narrow(0, row, n).to(master), 0.0, scaling);
      da_e.addmm_(dlow_e.to(master).t(), x.narrow(0, row, n).to(master), 0.0, scaling);
    });
    return {dx, at::Tensor(), at::Tensor(), da, db, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor grouped_linear(const at::Tensor& x_RI, const FrozenWeight& w_EOI, const std::vector<int64_t>& rows_of_expert,
                          const LoraPair* lora) {
  MORAINE_ASSERT(static_cast<int64_t>(rows_of_expert.size()) == w_EOI.values.size(0), "one row count an expert");
  MORAINE_ASSERT(w_EOI.quantized() || x_RI.scalar_type() == w_EOI.values.scalar_type(), "activations and weights differ in dtype");
  std::optional<at::Tensor> scale, a, b;
  if (w_EOI.quantized()) scale = w_EOI.scale;
  if (lora) {
    a = lora->a;
    b = lora->b;
  }
  return GroupedLinear::apply(x_RI.contiguous(), w_EOI.values, scale, a, b, lora ? lora->scaling : 1.0, rows_of_expert);
}

at::Tensor lora_linear(const at::Tensor& x_TI, const FrozenWeight& w_OI, const LoraPair* lora) {
  at::Tensor y_TO = grouped_linear(x_TI, w_OI.split_rows(1), {x_TI.size(0)}, nullptr);
  if (!lora) return y_TO;
  const at::ScalarType master = lora->a.scalar_type();
  at::Tensor delta_TO = at::mm(at::mm(x_TI.to(master), lora->a.t()), lora->b.t());
  return at::add(y_TO.to(master), delta_TO, lora->scaling).to(x_TI.scalar_type());
}

}  // namespace moraine
