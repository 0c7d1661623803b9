#include "models/declaration.h"

#include <fmt/format.h>

#include <tuple>

#include "base/error.h"
#include "models/param_specs.h"

namespace moraine {

std::string StoredNames::tensor(int64_t layer, const std::string& name) const {
  const auto is_or_holds = [&](const std::string& module) {
    return name.starts_with(module) && (name.size() == module.size() || name[module.size()] == '.');
  };
  for (const auto& [ours, theirs] : renamed)
    if (is_or_holds(ours)) return fmt::format("{}{}.{}{}", layers, layer, theirs, name.substr(ours.size()));
  return fmt::format("{}{}.{}", layers, layer, name);
}

Declaration::Declaration(Part part, int64_t layer, StoredAs as, const StoredDtype& stored)
    : part_(part), layer_(layer), as_(std::move(as)), stored_(stored) {
  spec_.name = fmt::format("layers.{}.{}", layer, part == Part::kExperts ? "experts" : "dense");
  spec_.kind = part == Part::kExperts ? ImageKind::kExperts : ImageKind::kDense;
}

void Declaration::param(const std::string& name, std::vector<int64_t> shape, const ParamOptions& options) {
  if (part_ != Part::kDense) return;
  spec_.params.push_back(
      stored_whole(name, as_.names.tensor(layer_, name), std::move(shape), options.dtype.value_or(as_.dtype)));
  spec_.params.back().init = options.init;
}

void Declaration::linear(const std::string& module, int64_t out, int64_t in, const LinearOptions& options) {
  if (options.lora) add_module(module, 0, in, out);
  if (part_ != Part::kDense) return;
  const std::string stored = as_.names.tensor(layer_, module), tensor = stored + ".weight";
  std::optional<QuantFormat> format;
  if (as_.quantization)
    format =
        as_.quantization->format_of({stored}, options.quantised ? as_.quantization->linear : std::nullopt, stored_);
  if (!format) {
    spec_.params.push_back(stored_whole(module + ".weight", tensor, {out, in}, as_.dtype));
  } else {
    as_.quantization->check_sides(*format, out, in, stored);
    ParamSpec codes = stored_whole(module + ".weight", tensor, {out, format->stored_columns(in)}, format->codes);
    codes.quant = format;
    ParamSpec scales = stored_whole(module + ".weight_scale", stored + as_.quantization->scale_suffix,
                                    {format->scale_rows(out), format->scale_columns(in)}, format->scales);
    scales.is_scales = true;
    spec_.params.insert(spec_.params.end(), {std::move(codes), std::move(scales)});
  }
  if (options.bias) param(module + ".bias", {out}, {.init = InitialValues::kZeros});
}

void Declaration::router(const std::string& module, int64_t num_experts, int64_t hidden, std::optional<DType> dtype) {
  param(module + ".weight", {num_experts, hidden}, {.dtype = dtype});
  add_module(module + ".weight", 0, hidden, num_experts);
}

void Declaration::experts(const std::string& module, int64_t num_experts, int64_t intermediate, int64_t hidden,
                          const ExpertOptions& options) {
  const std::string gate_up = module + ".gate_up_proj", down = module + ".down_proj";
  add_module(gate_up, num_experts, hidden, 2 * intermediate);
  add_module(down, num_experts, intermediate, hidden);
  if (part_ == Part::kModules)
    for (auto module = modules_.end() - 2; module != modules_.end(); ++module)
      module->is_transposed = options.transposed;
  if (part_ != Part::kExperts) return;
  const StoredNames& names = as_.names;
  const auto add_bias = [&](const std::string& name, int64_t out) {
    if (!options.bias) return;
    spec_.params.push_back(
        stored_whole(name + "_bias", names.tensor(layer_, name + "_bias"), {num_experts, out}, as_.dtype));
    spec_.params.back().kind = ParamKind::kExperts;
    spec_.params.back().init = InitialValues::kZeros;
  };
  if (options.transposed) {
    for (const auto& [name, out, in] : {std::tuple{gate_up, 2 * intermediate, hidden}, {down, hidden, intermediate}}) {
      transposed_experts(module, name, num_experts, out, in);
      add_bias(name, out);
    }
    return;
  }
  MORAINE_ASSERT(!options.bias, "biases of experts are stored beside fused ones");
  const std::string first = fmt::format("{}.0.{}.weight", names.tensor(layer_, module), names.gate);
  const bool fused =
      stored_(names.tensor(layer_, gate_up)) || (as_.fused_experts && !as_.quantization && !stored_(first));
  if (!fused) {
    expert_projections(gate_up, module, {names.gate, names.up}, num_experts, intermediate, hidden);
    expert_projections(down, module, {names.down}, num_experts, hidden, intermediate);
    return;
  }
  for (const auto& [name, rows, columns] :
       {std::tuple{gate_up, 2 * intermediate, hidden}, {down, hidden, intermediate}}) {
    spec_.params.push_back(stored_whole(name, names.tensor(layer_, name), {num_experts, rows, columns}, as_.dtype));
    spec_.params.back().kind = ParamKind::kExperts;
  }
}

void Declaration::expert_projections(const std::string& param, const std::string& module,
                                     const std::vector<std::string>& projections, int64_t num_experts, int64_t rows,
                                     int64_t columns) {
  const std::string prefix = as_.names.tensor(layer_, module) + ".";
  const auto suffixes = [&](const std::string& end) {
    std::vector<std::string> all;
    for (const std::string& projection : projections) all.push_back("." + projection + end);
    return all;
  };
  std::optional<QuantFormat> format;
  if (as_.quantization) {
    std::vector<std::string> modules;
    for (int64_t e = 0; e < num_experts; ++e)
      for (const std::string& projection : projections)
        modules.push_back(fmt::format("{}{}.{}", prefix, e, projection));
    format = as_.quantization->format_of(modules, as_.quantization->experts, stored_);
    if (format) as_.quantization->check_sides(*format, rows, columns, modules.front());
  }
  const int64_t stored_columns = format ? format->stored_columns(columns) : columns;
  spec_.params.push_back(stored_by_expert(param, prefix, suffixes(".weight"), num_experts, rows, stored_columns,
                                          format ? format->codes : as_.dtype));
  if (!format) return;
  spec_.params.back().quant = format;
  spec_.params.back().matrices = static_cast<int64_t>(projections.size());
  spec_.params.push_back(stored_by_expert(param + "_scale", prefix, suffixes(as_.quantization->scale_suffix),
                                          num_experts, format->scale_rows(rows), format->scale_columns(columns),
                                          format->scales));
  spec_.params.back().is_scales = true;
}

void Declaration::transposed_experts(const std::string& module, const std::string& param, int64_t num_experts,
                                     int64_t out, int64_t in) {
  const std::string tensor = as_.names.tensor(layer_, param);
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, DType dtype, const SourceTensor& source) {
    spec_.params.push_back({name, ParamKind::kExperts, std::move(shape), dtype, {source}});
    return &spec_.params.back();
  };
  if (!as_.quantization || !as_.quantization->has_blocks(as_.names.tensor(layer_, module), tensor, stored_)) {
    const std::vector<int64_t> shape{num_experts, in, out};
    add(param, shape, as_.dtype, {tensor, shape})->transposed = true;
    return;
  }
  const QuantFormat format = QuantFormat::fp4(DType::kF8E8M0);
  if (in % format.block_columns != 0)
    throw input_error(tensor, fmt::format("{} columns cannot be cut into blocks of {}", in, format.block_columns),
                      "this matrix cannot be stored as MXFP4");
  const int64_t blocks = in / format.block_columns, bytes = format.block_columns / 2;
  ParamSpec* codes =
      add(param, {num_experts, out, in / 2}, format.codes, {tensor + kBlocksSuffix, {num_experts, out, blocks, bytes}});
  codes->quant = format;
  codes->stored_as = DType::kU8;
  const std::vector<int64_t> shape{num_experts, out, blocks};
  ParamSpec* scales = add(param + "_scale", shape, format.scales, {tensor + kScalesSuffix, shape});
  scales->is_scales = true;
  scales->stored_as = DType::kU8;
}

void Declaration::add_module(const std::string& name, int64_t num_experts, int64_t in, int64_t out) {
  if (part_ == Part::kModules)
    modules_.push_back({fmt::format("model.layers.{}.{}", layer_, name), layer_, name, num_experts, in, out});
}

}  // namespace moraine
