#include "models/layer_tape.h"

#include <torch/csrc/autograd/autograd.h>

#include <utility>
#include <vector>

namespace moraine {

LayerTape run_with_tape(const Model& model, const LayerScope& scope, const at::Tensor& input) {
  at::AutoGradMode enable_grad(true);
  LayerTape tape;
  tape.input = input.detach().requires_grad_();
  tape.output = model.forward_layer(scope, tape.input);
  at::Tensor& sums_E = scope.record.probability_sums_E;
  tape.probability_sums_E = sums_E;
  if (sums_E.defined()) sums_E = sums_E.detach();
  return tape;
}

at::Tensor backward_of_tape(const LayerTape& tape, const at::Tensor& grad_output, const at::Tensor& grad_sums_E) {
  std::vector<at::Tensor> outputs{tape.output}, grad_outputs{grad_output};
  if (grad_sums_E.defined() && tape.probability_sums_E.defined()) {
    outputs.push_back(tape.probability_sums_E);
    grad_outputs.push_back(grad_sums_E);
  }
  return torch::autograd::grad(outputs, {tape.input}, grad_outputs).front();
}

HeadResult run_head(const Model& model, const ImageView& root, const at::Tensor& hidden, const at::Tensor& targets_T,
                    double loss_scale, const LoraPair* lora) {
  at::Tensor normed, input = hidden.detach().requires_grad_();
  {
    at::AutoGradMode enable_grad(true);
    normed = model.final_norm(root, input);
  }
  LossResult loss = chunked_cross_entropy(normed.detach(), model.head_weight_VD(root), targets_T, WithGradient::kYes,
                                          loss_scale, lora);
  const at::Tensor grad_normed = std::exchange(loss.grad_hidden_TD, {});
  return {std::move(loss), torch::autograd::grad({normed}, {input}, {grad_normed}).front()};
}

void backward_of_embedding(const Model& model, const ImageView& root, const Batch& batch, const LoraPair& lora,
                           const at::Tensor& grad_output) {
  at::AutoGradMode enable_grad(true);
  torch::autograd::backward({model.embed(root, batch, &lora)}, {grad_output});
}

}  // namespace moraine
