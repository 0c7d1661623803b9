// RMS norm with a weight.
#pragma once

#include "models/blocks/block.h"
#include "nn/norm.h"

namespace moraine {

enum class NormKind {
  kPlain,         // · weight, after rounding
  kRoundedOnce,   // · weight in fp32, then rounded
  kZeroCentered,  // · (1 + weight), rounded once
};

struct RmsNorm {
  std::string name;  // "input_layernorm"
  int64_t width;
  double eps;
  NormKind kind = NormKind::kPlain;

  InitialValues init() const { return kind == NormKind::kZeroCentered ? InitialValues::kZeros : InitialValues::kOnes; }
  void declare(Declaration& d) const { d.param(name + ".weight", {width}, {.init = init()}); }
  // Over the last dim of x, which has `width`; `image` holds the weight.
  at::Tensor operator()(const at::Tensor& x, const ImageView& image) const {
    const at::Tensor& weight = image[name + ".weight"];
    switch (kind) {
      case NormKind::kRoundedOnce:
        return rms_norm_rounded_once(x, weight, eps);
      case NormKind::kZeroCentered:
        return rms_norm_zero_centered(x, weight, eps);
      default:
        return rms_norm(x, weight, eps);
    }
  }
};

}  // namespace moraine
