#include "checkpoint/check_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_set>

#include "base/error.h"

namespace moraine {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool convertible(DType stored, DType wanted) {
  auto is_float = [](DType d) { return d == DType::kF32 || d == DType::kBF16 || d == DType::kF16; };
  return stored == wanted || (is_float(stored) && is_float(wanted));
}

void check_tensor(const std::string& name, const std::vector<int64_t>& shape, DType wanted,
                  const CheckpointIndex& index) {
  const CheckpointTensor* tensor = index.find(name);
  if (!tensor) {
    throw input_error(index.folder.string(), fmt::format("tensor {} is missing from the checkpoint", name),
                      "config.json implies it; download the checkpoint again or mend config.json");
  }
  const std::string& file = index.files[tensor->file].path.string();
  if (tensor->entry.shape != shape) {
    throw input_error(file,
                      fmt::format("tensor {} has shape {}, config.json implies {}", name,
                                  shape_text(tensor->entry.shape), shape_text(shape)),
                      "config.json and the weights do not belong together");
  }
  if (!convertible(tensor->entry.dtype, wanted)) {
    throw input_error(file,
                      fmt::format("tensor {} has dtype {}, which cannot be used as {}", name,
                                  dtype_name(tensor->entry.dtype), dtype_name(wanted)),
                      "config.json and the weights do not belong together");
  }
}

}  // namespace

std::vector<SkippedTensor> check_checkpoint(
    const std::vector<ImageSpec>& specs, const CheckpointIndex& index,
    const std::function<std::optional<std::string>(const std::string& tensor)>& why_skipped) {
  std::unordered_set<std::string> used;
  for (const ImageSpec& spec : specs) {
    for (const ParamSpec& param : spec.params) {
      for (const SourceTensor& source : param.sources) {
        const auto in_files = [&](DType dtype) { return param.stored_as.value_or(dtype); };
        check_tensor(source.name, source.shape, in_files(param.read_from ? param.read_from->codes : param.dtype),
                     index);
        used.insert(source.name);
        if (!param.read_from) continue;
        check_tensor(source.scale, source.scale_shape, in_files(param.read_from->scales), index);
        used.insert(source.scale);
      }
    }
  }
  std::vector<SkippedTensor> skipped;
  std::vector<std::string> unexpected;
  for (const auto& [name, tensor] : index.tensors) {
    if (used.contains(name)) continue;
    if (const auto reason = why_skipped(name)) {
      skipped.push_back({name, *reason});
    } else {
      unexpected.push_back(name);
    }
  }
  std::sort(skipped.begin(), skipped.end(), [](const auto& a, const auto& b) { return a.tensor < b.tensor; });
  if (unexpected.empty()) return skipped;
  std::sort(unexpected.begin(), unexpected.end());
  const CheckpointTensor* first = index.find(unexpected.front());
  throw input_error(index.files[first->file].path.string(),
                    fmt::format("{} tensor{} that config.json does not imply, the first is {}", unexpected.size(),
                                unexpected.size() == 1 ? "" : "s", unexpected.front()),
                    "config.json and the weights do not belong together");
}

CheckpointIndex assumed_index(const std::vector<ImageSpec>& specs, uint64_t max_file_bytes) {
  CheckpointIndex index;
  for (const ImageSpec& spec : specs) {
    for (const ParamSpec& param : spec.params) {
      for (const SourceTensor& source : param.sources) {
        const uint64_t nbytes = static_cast<uint64_t>(num_elements(source.shape)) * dtype_bits(param.dtype) / 8;
        if (index.files.empty() ||
            (index.files.back().file_size > 0 && index.files.back().file_size + nbytes > max_file_bytes)) {
          index.files.emplace_back();
        }
        SafetensorsHeader& file = index.files.back();
        const SafetensorsEntry entry{source.name, param.stored_dtype(), source.shape, file.file_size, nbytes};
        file.file_size += nbytes;
        file.entries.push_back(entry);
        index.tensors[source.name] = {static_cast<int>(index.files.size()) - 1, entry};
      }
    }
  }
  return index;
}

}  // namespace moraine
