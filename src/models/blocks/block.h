// A part of a decoder layer: it declares what it consists of, and runs.
//
// Shape suffixes: T tokens, D hidden.
#pragma once

#include <ATen/ATen.h>

#include "models/declaration.h"
#include "models/model.h"

namespace moraine {

class Block {
 public:
  virtual ~Block() = default;
  virtual void declare(Declaration& d) const = 0;
  // x_TD → [T, D]. Differentiable in x and in the adapter's tensors. All ranks of the EP group must call this for
  // blocks with experts.
  virtual at::Tensor forward(const at::Tensor& x_TD, const LayerScope& scope) const = 0;
  // Enters the figures of `shape` that only this kind of block knows.
  virtual void describe(ModelShape&) const {}
};

}  // namespace moraine
