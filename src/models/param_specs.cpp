#include "models/param_specs.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace moraine {
namespace {

int64_t scale_count(int64_t length, int64_t block, const char* side, const std::string& tensor) {
  if (length > block && length % block != 0) {
    throw input_error(tensor, fmt::format("{} {} cannot be cut into blocks of {} that share a scale", length, side, block),
                      "quantised weights with a cut-off last block are not supported; convert the checkpoint to bfloat16");
  }
  return (length + block - 1) / block;
}

}  // namespace

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

int64_t MatrixFormat::scale_rows(int64_t rows, const std::string& tensor) const {
  return scale_count(rows, block_rows, "rows", tensor);
}

int64_t MatrixFormat::scale_columns(int64_t columns, const std::string& tensor) const {
  if (dtype == DType::kI8 && columns % 2 != 0) {
    throw input_error(tensor, fmt::format("an odd number of columns ({}) cannot be stored two a byte", columns));
  }
  return scale_count(columns, block_columns, "columns", tensor);
}

const ParamSpec* scaled_param(const ImageSpec& image, const ParamSpec& param) {
  constexpr std::string_view kSuffix = "_scale";
  if (!param.name.ends_with(kSuffix)) return nullptr;
  const std::string_view scaled = std::string_view(param.name).substr(0, param.name.size() - kSuffix.size());
  auto found = std::find_if(image.params.begin(), image.params.end(), [&](const ParamSpec& p) { return p.name == scaled; });
  return found == image.params.end() ? nullptr : &*found;
}

ImageSpec dequantized_while_read(ImageSpec image) {
  std::vector<ParamSpec> params;
  for (const ParamSpec& param : image.params) {
    if (scaled_param(image, param)) continue;
    params.push_back(param);
    const auto scales = std::find_if(image.params.begin(), image.params.end(),
                                     [&](const ParamSpec& p) { return scaled_param(image, p) == &param; });
    if (scales == image.params.end()) continue;
    ParamSpec& plain = params.back();
    MORAINE_ASSERT(scales->sources.size() == plain.sources.size(), "a tensor of scales for each tensor of " + plain.name);
    const int64_t per_stored = param.dtype == DType::kI8 ? 2 : 1;
    plain.dtype = DType::kBF16;
    plain.shape.back() *= per_stored;
    for (size_t i = 0; i < plain.sources.size(); ++i) {
      const SourceTensor& scale = scales->sources[i];
      plain.sources[i].first_element *= per_stored;
      plain.sources[i].quantized = QuantizedSource{param.dtype, scale.name, scale.shape, scales->dtype};
    }
  }
  image.params = std::move(params);
  return image;
}

uint64_t count_parameters(const ImageSpec& image, const ParamSpec& param) {
  if (param.dtype == DType::kI64 || scaled_param(image, param)) return 0;
  return static_cast<uint64_t>(num_elements(param.shape)) * (param.dtype == DType::kI8 ? 2 : 1);
}

}  // namespace moraine
