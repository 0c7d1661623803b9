#include "models/plain_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "load/dequantize.h"

namespace moraine {
namespace {

constexpr std::string_view kWeight = ".weight", kScale = ".scale", kScaleInv = ".weight_scale_inv";

bool is_float(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }
bool is_quantized(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kI8; }
bool is_scale(DType dtype) { return dtype == DType::kF8E8M0 || is_float(dtype); }

std::string with_suffix(const std::string& name, std::string_view from, std::string_view to) {
  return name.substr(0, name.size() - from.size()) + std::string(to);
}

std::string last_component(const std::string& name) { return name.substr(name.rfind('.') + 1); }

// Whether `name` holds the scales of another tensor.
bool scales_another(const CheckpointIndex& index, const std::string& name) {
  const std::string_view suffix = name.ends_with(kScaleInv) ? kScaleInv : kScale;
  if (!name.ends_with(suffix)) return false;
  const CheckpointTensor* weight = index.find(with_suffix(name, suffix, kWeight));
  return weight && is_quantized(weight->entry.dtype);
}

void add_scales(PlainTensor& plain, const CheckpointIndex& index) {
  const SafetensorsEntry& values = plain.values->entry;
  const auto refuse = [&](const std::string& what) {
    throw input_error(index.files[plain.values->file].path.string(),
                      fmt::format("tensor {} is {}, but {}", plain.name, dtype_name(values.dtype), what),
                      "quantised weights are F8_E4M3 in blocks or two FP4 codes in I8, with scales beside them");
  };
  const std::string stem = plain.name.ends_with(kWeight) ? with_suffix(plain.name, kWeight, "") : plain.name;
  const std::string name = stem + std::string(kScale), name_inv = stem + std::string(kScaleInv);
  plain.scales = index.find(name_inv);
  if (!plain.scales) plain.scales = index.find(name);
  if (!plain.scales) refuse(fmt::format("there is no tensor {} or {}", name, name_inv));
  const SafetensorsEntry& scales = plain.scales->entry;
  const bool fp4 = values.dtype == DType::kI8;
  if (!is_scale(scales.dtype)) refuse(fmt::format("its scales are {}", dtype_name(scales.dtype)));
  if (values.shape.size() != 2 || scales.shape.size() != 2) refuse("not a matrix with a matrix of scales");
  plain.columns = plain.shape[1] = values.shape[1] * (fp4 ? 2 : 1);
  const int64_t rows = values.shape[0], scale_rows = scales.shape[0], scale_columns = scales.shape[1];
  const auto shapes = [&] { return fmt::format("[{}] scales", fmt::join(scales.shape, ", ")); };
  if (is_scale_inv(scales.name)) {
    const auto blocks = [](int64_t length) { return (length + kScaleInvBlock - 1) / kScaleInvBlock; };
    if (fp4 || scale_rows != blocks(rows) || scale_columns != blocks(plain.columns))
      refuse(fmt::format("{} are not one for each 128 × 128 block of [{}, {}]", shapes(), rows, plain.columns));
  } else {
    const bool even = scale_rows > 0 && scale_columns > 0 && rows % scale_rows == 0 && plain.columns % scale_columns == 0 &&
                      (!fp4 || plain.columns / scale_columns % 2 == 0);
    if (!even) refuse(fmt::format("{} do not divide [{}, {}] evenly", shapes(), rows, plain.columns));
  }
  const ScaleGrid grid = scale_grid(scales.name, scales.shape, rows, plain.columns);
  plain.block_rows = grid.block_rows;
  plain.block_columns = grid.block_columns;
}

// Names that stay in fp32: those whose parameters the family has in fp32 though the model is in bfloat16. By their last component, so
// that tensors of layers which no image holds (multi-token prediction) are treated like the others.
std::set<std::string> kept_names(const std::vector<ImageSpec>& specs) {
  std::set<std::string> names;
  for (const ImageSpec& spec : specs)
    for (const ParamSpec& param : spec.params)
      if (param.dtype == DType::kF32)
        for (const SourceTensor& source : param.sources) names.insert(last_component(source.name));
  return names;
}

}  // namespace

std::vector<PlainTensor> plain_tensors(const CheckpointIndex& index, const std::vector<ImageSpec>& specs, std::optional<DType> dtype) {
  const std::set<std::string> kept = kept_names(specs);
  const DType embedding = index.find(specs.front().params.front().sources.front().name)->entry.dtype;
  // What is stored wider than the embedding is so on purpose.
  const auto converts = [&](const SafetensorsEntry& entry) {
    if (!dtype || !is_float(entry.dtype)) return false;
    if (*dtype == DType::kF32) return true;
    return !kept.contains(last_component(entry.name)) && (entry.dtype == embedding || entry.dtype != DType::kF32);
  };
  std::vector<PlainTensor> tensors;
  for (const auto& [name, tensor] : index.tensors) {
    if (scales_another(index, name)) continue;
    const SafetensorsEntry& entry = tensor.entry;
    PlainTensor plain{name, entry.shape, entry.dtype, entry.shape.empty() ? 1 : entry.shape.back(), &tensor};
    if (is_quantized(entry.dtype)) {
      add_scales(plain, index);
      plain.dtype = dtype.value_or(DType::kBF16);
    } else if (converts(entry)) {
      plain.dtype = *dtype;
    }
    tensors.push_back(std::move(plain));
  }
  std::sort(tensors.begin(), tensors.end(), [](const PlainTensor& a, const PlainTensor& b) {
    return std::pair(a.values->file, a.values->entry.offset) < std::pair(b.values->file, b.values->entry.offset);
  });
  return tensors;
}

}  // namespace moraine
