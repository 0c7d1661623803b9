// The rotary table of a batch, made once for all layers that turn alike.
#pragma once

#include <fmt/format.h>

#include "models/model.h"
#include "nn/rope.h"

namespace moraine {

inline const RopeTable& rope_table(const RopeSpec& rope, const ForwardContext& pass, at::ScalarType dtype) {
  const std::string key =
      fmt::format("rope {} {} {} {} {}", rope.dim, rope.rope_theta, rope.yarn, rope.factor, static_cast<int>(dtype));
  return pass.once<RopeTable>(key, [&] { return make_rope_table(pass.batch->position_ids_T, rope, dtype); });
}

}  // namespace moraine
