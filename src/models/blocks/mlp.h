// The gated MLP: down(silu(gate(x)) · up(x)).
#pragma once

#include <limits>

#include "models/blocks/linear.h"

namespace moraine {

struct Mlp : Block {
  std::string name = "mlp";
  int64_t hidden = 0, intermediate = 0;
  bool lora = true;
  double limit = std::numeric_limits<double>::infinity();  // see swiglu

  Mlp(std::string name, int64_t hidden, int64_t intermediate, bool lora = true,
      double limit = std::numeric_limits<double>::infinity())
      : name(std::move(name)), hidden(hidden), intermediate(intermediate), lora(lora), limit(limit) {}

  void declare(Declaration& d) const override;
  at::Tensor forward(const at::Tensor& x_TD, const LayerScope& scope) const override;

 private:
  Linear gate_proj() const { return {name + ".gate_proj", intermediate, hidden, false, lora}; }
  Linear up_proj() const { return {name + ".up_proj", intermediate, hidden, false, lora}; }
  Linear down_proj() const { return {name + ".down_proj", hidden, intermediate, false, lora}; }
};

}  // namespace moraine
