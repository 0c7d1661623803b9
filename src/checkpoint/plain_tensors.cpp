#include "checkpoint/plain_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace moraine {
namespace {

constexpr std::string_view kWeight = ".weight";

bool is_float(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }
bool is_quantized(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kI8; }

std::string with_suffix(const std::string& name, std::string_view from, std::string_view to) {
  return name.substr(0, name.size() - from.size()) + std::string(to);
}

std::string last_component(const std::string& name) { return name.substr(name.rfind('.') + 1); }

// Whether `name` holds the scales of another tensor.
bool scales_another(const CheckpointIndex& index, const std::string& name, const Quantization* quantization) {
  if (!quantization) return false;
  if (quantization->mxfp4)
    return name.ends_with(kScalesSuffix) && index.find(with_suffix(name, kScalesSuffix, kBlocksSuffix));
  if (!name.ends_with(quantization->scale_suffix)) return false;
  const CheckpointTensor* weight = index.find(with_suffix(name, quantization->scale_suffix, kWeight));
  return weight && is_quantized(weight->entry.dtype);
}

void add_scales(PlainTensor& plain, const CheckpointIndex& index, const Quantization* quantization) {
  const SafetensorsEntry& values = plain.values->entry;
  const auto refuse = [&](const std::string& what) {
    throw input_error(index.files[plain.values->file].path.string(),
                      fmt::format("tensor {} is {}, but {}", plain.name, dtype_name(values.dtype), what),
                      "quantised weights are F8_E4M3 in blocks or two FP4 codes in I8, with scales beside them");
  };
  if (!quantization) refuse("config.json has no quantization_config");
  const std::string stem = plain.name.ends_with(kWeight) ? with_suffix(plain.name, kWeight, "") : plain.name;
  plain.scales = index.find(stem + quantization->scale_suffix);
  if (!plain.scales) refuse(fmt::format("there is no tensor {}{}", stem, quantization->scale_suffix));
  const std::optional<QuantFormat> format = quantization->format_of({stem}, std::nullopt, stored_in(index));
  if (!format) refuse("this family has no such weights");
  const SafetensorsEntry& scales = plain.scales->entry;
  if (scales.dtype != DType::kF8E8M0 && !is_float(scales.dtype))
    refuse(fmt::format("its scales are {}", dtype_name(scales.dtype)));
  if (values.shape.size() != 2) refuse("it is no matrix");
  plain.format = *format;
  plain.columns = plain.shape[1] = values.shape[1] * format->per_stored();
  quantization->check_sides(*format, values.shape[0], plain.columns, plain.name);
  if (scales.shape != format->scale_shape(values.shape))
    refuse(fmt::format("[{}] scales are not one for each {} × {} block of [{}]", fmt::join(scales.shape, ", "),
                       format->block_rows, format->block_columns, fmt::join(plain.shape, ", ")));
}

// Whether `entry` holds MXFP4's codes.
bool holds_blocks(const SafetensorsEntry& entry, const Quantization* quantization) {
  return quantization && quantization->mxfp4 && entry.dtype == DType::kU8 && entry.name.ends_with(kBlocksSuffix);
}

// Of a tensor that check_checkpoint has seen: its shape is what it must be.
void plain_of_blocks(PlainTensor& plain, const CheckpointIndex& index) {
  const std::vector<int64_t>& stored = plain.values->entry.shape;
  plain.name = with_suffix(plain.name, kBlocksSuffix, "");
  plain.scales = index.find(plain.name + kScalesSuffix);
  MORAINE_ASSERT(plain.scales && stored.size() == 4, "an unchecked checkpoint: " + plain.name);
  plain.format = QuantFormat::fp4(DType::kF8E8M0);
  plain.columns = stored[1];
  plain.shape = {stored[0], stored_columns_of(stored) * plain.format.per_stored(), plain.columns};
  plain.transposed = true;
}

// Names that stay in fp32: those whose parameters the family has in fp32 though the model is in bfloat16. By their last
// component, so that tensors of layers which no image holds (multi-token prediction) are treated like the others.
std::set<std::string> kept_names(const std::vector<ImageSpec>& specs) {
  std::set<std::string> names;
  for (const ImageSpec& spec : specs)
    for (const ParamSpec& param : spec.params)
      if (param.dtype == DType::kF32)
        for (const SourceTensor& source : param.sources) names.insert(last_component(source.name));
  return names;
}

}  // namespace

std::vector<PlainTensor> plain_tensors(const CheckpointIndex& index, const std::vector<ImageSpec>& specs,
                                       const Quantization* quantization, std::optional<DType> dtype) {
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
    if (scales_another(index, name, quantization)) continue;
    const SafetensorsEntry& entry = tensor.entry;
    PlainTensor plain{name, entry.shape, entry.dtype, entry.shape.empty() ? 1 : entry.shape.back(), &tensor};
    if (holds_blocks(entry, quantization)) {
      plain_of_blocks(plain, index);
      plain.dtype = dtype.value_or(DType::kBF16);
    } else if (is_quantized(entry.dtype)) {
      add_scales(plain, index, quantization);
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
