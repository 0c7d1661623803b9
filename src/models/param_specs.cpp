#include "models/param_specs.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"

namespace moraine {
ParamSpec stored_whole(const std::string& name, const std::string& tensor, std::vector<int64_t> shape, DType dtype) {
  return {name, ParamKind::kDense, shape, dtype, {{tensor, shape, 0}}};
}

ParamSpec stored_by_expert(const std::string& name, const std::string& prefix, const std::vector<std::string>& suffixes,
                           int64_t num_experts, int64_t rows, int64_t columns, DType dtype) {
  const int64_t num_parts = static_cast<int64_t>(suffixes.size());
  ParamSpec param{name, ParamKind::kExperts, {num_experts, num_parts * rows, columns}, dtype, {}};
  param.sources.reserve(num_experts * num_parts);
  for (int64_t e = 0; e < num_experts; ++e) {
    const std::string expert = fmt::format("{}{}", prefix, e);
    for (int64_t part = 0; part < num_parts; ++part)
      param.sources.push_back({expert + suffixes[part], {rows, columns}, (e * num_parts + part) * rows * columns});
  }
  return param;
}

const ParamSpec* scaled_param(const ParamSpec& param) { return param.is_scales ? &param - 1 : nullptr; }

ImageSpec dequantized_while_read(ImageSpec image) {
  std::vector<ParamSpec> params;
  for (ParamSpec& param : image.params) {
    if (!param.is_scales) {
      params.push_back(std::move(param));
      continue;
    }
    // `param` holds the scales of what came before.
    ParamSpec& plain = params.back();
    MORAINE_ASSERT(plain.quant && param.sources.size() == plain.sources.size(),
                   "a tensor of scales for each tensor of " + plain.name);
    plain.read_from = std::exchange(plain.quant, std::nullopt);
    plain.dtype = DType::kBF16;
    plain.shape.back() *= plain.read_from->per_stored();
    for (size_t i = 0; i < plain.sources.size(); ++i) {
      plain.sources[i].first_element *= plain.read_from->per_stored();
      plain.sources[i].scale = param.sources[i].name;
      plain.sources[i].scale_shape = param.sources[i].shape;
    }
  }
  image.params = std::move(params);
  return image;
}

uint64_t count_parameters(const ParamSpec& param) {
  if (param.dtype == DType::kI64 || param.is_scales) return 0;
  return static_cast<uint64_t>(num_elements(param.shape)) * (param.quant ? param.quant->per_stored() : 1);
}

}  // namespace moraine
