// The steps of a pass that autograd takes part in: a layer with its backward pass, the output head with its own, and
// the embedding's.
#pragma once

#include "models/model.h"
#include "nn/loss.h"

namespace moraine {

// A layer run under autograd: what its backward pass needs besides the weights.
struct LayerTape {
  at::Tensor input, output;
  at::Tensor probability_sums_E;  // with its history; scope.record has it without
};
// `scope.adapter` has the gradients that the backward pass shall add to.
LayerTape run_with_tape(const Model& model, const LayerScope& scope, const at::Tensor& input);

// d loss / d output (and, where routing has a loss, / d probability_sums_E) → d loss / d input; the layers add the
// gradients of their adapters to the flat buffers.
at::Tensor backward_of_tape(const LayerTape& tape, const at::Tensor& grad_output, const at::Tensor& grad_sums_E);

// Loss and gradient of what the last layer returned, in one go, a chunk of tokens at a time. `lora`: the head's
// adapter, whose gradients are added to, or null.
struct HeadResult {
  LossResult loss;         // without grad_hidden_TD
  at::Tensor grad_hidden;  // d (loss_scale · Σ token losses) / d hidden
};
HeadResult run_head(const Model& model, const ImageView& root, const at::Tensor& hidden, const at::Tensor& targets_T,
                    double loss_scale, const LoraPair* lora = nullptr);

// d loss / d output of the embedding, made again: adds the gradients of its adapter.
void backward_of_embedding(const Model& model, const ImageView& root, const Batch& batch, const LoraPair& lora,
                           const at::Tensor& grad_output);

}  // namespace moraine
