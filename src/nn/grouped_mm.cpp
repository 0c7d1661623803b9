#include "nn/grouped_mm.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "base/bytes.h"
#include "base/error.h"
#include "nn/outer_products.h"
#include "nn/saved_linear.h"
#include "tensor/execution_device.h"
#include "tensor/to_device.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kAligned = 8;  // bf16 elements in 16 bytes

// Some experts, one after another, and their rows.
struct Wave {
  int64_t first = 0, count = 0;  // experts
  int64_t first_row = 0, num_rows = 0;
  std::vector<int64_t> is_empty;  // of each expert: whether it has no rows
  at::Tensor ends;                // int32 [count], on the device: where its rows end, counted from the wave's first

  at::Tensor rows(const at::Tensor& x) const { return x.narrow(0, first_row, num_rows); }
  at::Tensor experts(const at::Tensor& t) const { return t.narrow(0, first, count); }
  // bool [count, 1, 1], on the device: those without rows. Made when it is first asked for.
  const at::Tensor& empty_experts() const {
    if (!empty.defined()) empty = to_device(is_empty, ends.device()).to(at::kBool).view({-1, 1, 1});
    return empty;
  }
  mutable at::Tensor empty;
};

// Results of waves, one below another: that of a wave with all rows as it is, without a copy.
class RowsOfWaves {
 public:
  RowsOfWaves(const at::Tensor& like, int64_t columns) : options_(like.options()), shape_{like.size(0), columns} {}

  // Returns the wave's rows.
  at::Tensor put(const Wave& wave, const at::Tensor& of_wave) {
    if (wave.num_rows == shape_[0]) return rows_ = of_wave;
    if (!rows_.defined()) rows_ = at::empty(shape_, options_);
    return wave.rows(rows_).copy_(of_wave);
  }
  at::Tensor rows() const { return rows_.defined() ? rows_ : at::empty(shape_, options_); }

 private:
  at::TensorOptions options_;
  std::vector<int64_t> shape_;
  at::Tensor rows_;
};

// body(wave, its weights [count, O, I] in `dtype`) for every wave with rows: one of all experts, or, for quantised
// ones, as many as are dequantised at once.
template <typename Body>
void for_each_wave(const FrozenWeight& w, at::ScalarType dtype, const std::vector<int64_t>& rows_of_expert,
                   const Body& body) {
  const int64_t E = static_cast<int64_t>(rows_of_expert.size()), O = w.out_features(), I = w.in_features();
  const int64_t expert_bytes = O * I * static_cast<int64_t>(c10::elementSize(dtype));
  const int64_t at_once = w.quantized() ? std::min(E, experts_dequantized_at_once(expert_bytes)) : E;
  Wave wave;
  for (; wave.first < E; wave.first += wave.count, wave.first_row += wave.num_rows) {
    wave.count = std::min(at_once, E - wave.first);
    wave.num_rows = 0;
    wave.is_empty.clear();
    wave.empty.reset();
    std::vector<int64_t> ends;
    for (int64_t e = wave.first; e < wave.first + wave.count; ++e) {
      ends.push_back(wave.num_rows += rows_of_expert[e]);
      wave.is_empty.push_back(rows_of_expert[e] == 0);
    }
    if (wave.num_rows == 0) continue;
    wave.ends = to_device(ends, w.values.device()).to(at::kInt);
    FrozenWeight part = w;
    part.values = wave.experts(w.values);
    if (w.quantized()) part.scale = wave.experts(w.scale);
    body(wave, w.quantized() ? dequantize(part, dtype) : part.values);
  }
}

// Each expert's rows by its matrix [I, O].
at::Tensor by_expert(const at::Tensor& x_RI, const at::Tensor& w_EIO, const Wave& wave) {
  return at::_grouped_mm(x_RI, w_EIO, wave.ends);
}

// Each expert's leftᵀ · right, [count, P, Q]; zero for one without rows, which not every device's kernel writes.
at::Tensor outer_by_expert(const at::Tensor& left_RP, const at::Tensor& right_RQ, const Wave& wave) {
  at::Tensor product = at::_grouped_mm(left_RP.t(), right_RQ, wave.ends);
  if (std::find(wave.is_empty.begin(), wave.is_empty.end(), 1) != wave.is_empty.end())
    product.masked_fill_(wave.empty_experts(), 0);
  return product;
}

class GroupedMm : public torch::autograd::Function<GroupedMm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const FrozenWeight& w, const LoraPair* lora,
                            std::vector<int64_t> rows_of_expert) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    at::Tensor a, b;  // of rank r filled up with zeros
    if (lora) {
      const int64_t r = lora->a.size(1), more = static_cast<int64_t>(round_up(r, kAligned)) - r;
      const auto of_each = [&](const at::Tensor& factor) {  // one that all experts share as often as there are experts
        return factor.size(0) == w.values.size(0) ? factor : factor.repeat({w.values.size(0), 1, 1});
      };
      a = of_each(at::constant_pad_nd(lora->a.to(x.scalar_type()), {0, 0, 0, more}));
      b = of_each(at::constant_pad_nd(lora->b.to(x.scalar_type()), {0, more}));
    }
    RowsOfWaves y(x, w.out_features()), low(x, lora ? a.size(1) : 0);
    for_each_wave(w, x.scalar_type(), rows_of_expert, [&](const Wave& wave, const at::Tensor& w_EOI) {
      const at::Tensor y_of_wave = y.put(wave, by_expert(wave.rows(x), w_EOI.transpose(1, 2), wave));
      if (!lora) return;
      const at::Tensor low_of_wave = low.put(wave, by_expert(wave.rows(x), wave.experts(a).transpose(1, 2), wave));
      y_of_wave.add_(by_expert(low_of_wave, wave.experts(b).transpose(1, 2), wave), lora->scaling);
    });
    SavedLinear{lora ? x : at::Tensor(), w, a, b, lora ? low.rows() : at::Tensor(), std::move(rows_of_expert)}.save(
        context);
    save_pair(context, lora);
    return y.rows();
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const SavedLinear saved = SavedLinear::load(context);
    const auto& [x, w, a, b, low, rows_of_expert] = saved;
    const double scaling = saved_scaling(context);
    const at::Tensor a_grad = saved_grad(context, "a_grad"), b_grad = saved_grad(context, "b_grad");
    const at::Tensor dy = grads[0].contiguous();
    RowsOfWaves dx(dy, w.in_features());
    for_each_wave(w, dy.scalar_type(), rows_of_expert, [&](const Wave& wave, const at::Tensor& w_EOI) {
      const at::Tensor dy_of_wave = wave.rows(dy);
      const at::Tensor dx_of_wave = dx.put(wave, by_expert(dy_of_wave, w_EOI, wave));
      if (!a.defined()) return;
      const at::Tensor dlow = by_expert(dy_of_wave, wave.experts(b), wave);
      dx_of_wave.add_(by_expert(dlow, wave.experts(a), wave), scaling);
      if (!a_grad.defined()) return;
      const int64_t r = a_grad.size(1);
      // Of a factor that all experts share, the sum over all rows.
      const auto is_shared = [&](const at::Tensor& grad) { return grad.size(0) != w.values.size(0); };
      if (is_shared(b_grad))
        add_outer_products(b_grad[0], dy_of_wave, wave.rows(low).narrow(1, 0, r).contiguous(), scaling);
      else
        wave.experts(b_grad).add_(outer_by_expert(dy_of_wave, wave.rows(low), wave).narrow(2, 0, r), scaling);
      if (is_shared(a_grad))
        add_outer_products(a_grad[0], dlow.narrow(1, 0, r).contiguous(), wave.rows(x), scaling);
      else
        wave.experts(a_grad).add_(outer_by_expert(dlow, wave.rows(x), wave).narrow(1, 0, r), scaling);
    });
    return {dx.rows(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool grouped_mm_is_faster(const at::Tensor& x_RI, const FrozenWeight& w_EOI) {
  return !execution_device(x_RI.device()).is_cpu() && x_RI.scalar_type() == at::kBFloat16 &&
         w_EOI.out_features() % kAligned == 0 && w_EOI.in_features() % kAligned == 0;
}

at::Tensor grouped_mm_linear(const at::Tensor& x_RI, const FrozenWeight& w_EOI,
                             const std::vector<int64_t>& rows_of_expert, const LoraPair* lora) {
  MORAINE_ASSERT(static_cast<int64_t>(rows_of_expert.size()) == w_EOI.values.size(0), "one row count per expert");
  return GroupedMm::apply(x_RI.contiguous(), w_EOI, lora, rows_of_expert);
}

}  // namespace moraine
