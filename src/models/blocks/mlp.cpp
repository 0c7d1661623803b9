#include "models/blocks/mlp.h"

#include <algorithm>

#include "nn/swiglu.h"

namespace moraine {

void Mlp::declare(Declaration& d) const {
  for (const Linear& linear : {gate_proj(), up_proj(), down_proj()}) linear.declare(d);
}

at::Tensor Mlp::forward(const at::Tensor& x_TD, const LayerScope& scope) const {
  const at::Tensor gate = gate_proj()(x_TD, scope), up = up_proj()(x_TD, scope);
  return down_proj()(swiglu(at::cat({gate, up}, -1), limit), scope);
}

}  // namespace moraine
