// Shape suffixes besides the header's: R low rank.
#include "nn/embedding.h"

#include <torch/csrc/autograd/custom_function.h>

#include "nn/outer_products.h"
#include "nn/saved_linear.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class AddEmbeddingLora : public torch::autograd::Function<AddEmbeddingLora> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows_TD, const at::Tensor& ids_T,
                            const LoraPair* lora) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor low_TR = lora->a.index_select(1, ids_T).t().contiguous();
    context->save_for_backward({ids_T, lora->b, low_TR});
    save_pair(context, lora);
    return at::addmm(rows_TD.to(lora->a.scalar_type()), low_TR, lora->b.t(), 1.0, lora->scaling)
        .to(rows_TD.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &ids_T = saved[0], &b = saved[1], &low_TR = saved[2];
    const at::Tensor a_grad = saved_grad(context, "a_grad"), b_grad = saved_grad(context, "b_grad");
    if (!a_grad.defined()) return {at::Tensor(), at::Tensor(), at::Tensor()};
    const double scaling = saved_scaling(context);
    const at::Tensor dy_TD = grads[0].to(b.scalar_type()).contiguous();
    add_outer_products(b_grad, dy_TD, low_TR, scaling);
    // Of a token that comes several times, one after another: index_put_ accumulates in a fixed order on every device.
    const at::Tensor dlow_TR = at::mm(dy_TD, b).mul_(scaling).to(a_grad.scalar_type());
    if (!a_grad.is_meta()) a_grad.t().index_put_({ids_T}, dlow_TR, /*accumulate=*/true);
    return {at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor token_embedding(const at::Tensor& weight_VD, const at::Tensor& ids_T, const LoraPair* lora) {
  at::Tensor rows_TD = weight_VD.index_select(0, ids_T);
  if (!lora) return rows_TD;
  // What makes autograd record: nothing else here requires a gradient.
  if (at::GradMode::is_enabled()) rows_TD.requires_grad_();
  return AddEmbeddingLora::apply(rows_TD, ids_T, lora);
}

}  // namespace moraine
