#include "models/blocks/linear.h"

#include "models/image_weight.h"
#include "nn/grouped_linear.h"

namespace moraine {

at::Tensor Linear::operator()(const at::Tensor& x_TI, const LayerScope& scope) const {
  at::Tensor y = lora_linear(x_TI, weight_of(scope.dense, name + ".weight"), scope.adapter.find(name));
  return bias ? y + scope.dense[name + ".bias"] : y;
}

}  // namespace moraine
