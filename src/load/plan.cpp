#include "load/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>
#include <unordered_set>

#include "base/error.h"

namespace moraine {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool convertible(DType stored, DType wanted) {
  auto is_float = [](DType d) { return d == DType::kF32 || d == DType::kBF16 || d == DType::kF16; };
  return stored == wanted || (is_float(stored) && is_float(wanted));
}

const CheckpointTensor& checked_tensor(const SlotPart& part, const Slot& slot, const CheckpointIndex& index) {
  const CheckpointTensor* tensor = index.find(part.tensor);
  if (!tensor) {
    throw input_error(index.folder.string(), fmt::format("tensor {} is missing from the checkpoint", part.tensor),
                      "config.json implies it; download the checkpoint again or mend config.json");
  }
  const std::string& file = index.files[tensor->file].path.string();
  if (tensor->entry.shape != part.tensor_shape) {
    throw input_error(file, fmt::format("tensor {} has shape {}, config.json implies {}", part.tensor,
                                        shape_text(tensor->entry.shape), shape_text(part.tensor_shape)),
                      "config.json and the weights do not belong together");
  }
  if (!convertible(tensor->entry.dtype, slot.dtype)) {
    throw input_error(file, fmt::format("tensor {} has dtype {}, which cannot be used as {}", part.tensor,
                                        dtype_name(tensor->entry.dtype), dtype_name(slot.dtype)),
                      "stored formats that this model family reads: F32, BF16, F16");
  }
  return *tensor;
}

}  // namespace

LoadPlan plan_reads(const std::vector<ShardPlan>& shards, const CheckpointIndex& index) {
  LoadPlan plan;
  plan.shards = shards;
  for (size_t i = 0; i < shards.size(); ++i) {
    const LayerImage& image = *shards[i].image;
    const ByteRange shard = shards[i].shard;
    plan.shard_bytes += shard.size();
    for (size_t s = 0; s < image.slots.size(); ++s) {
      const Slot& slot = image.slots[s];
      const uint64_t wanted_size = dtype_bits(slot.dtype) / 8;
      for (const SlotPart& part : slot.parts) {
        // Checked even when no byte of it lies in this shard: every rank refuses a bad checkpoint alike.
        const CheckpointTensor& tensor = checked_tensor(part, slot, index);
        const uint64_t stored_size = dtype_bits(tensor.entry.dtype) / 8;
        const uint64_t part_begin = slot.offset + part.slot_element * wanted_size;
        const uint64_t part_end = part_begin + part.num_elements * wanted_size;
        const uint64_t lo = std::max(part_begin, shard.begin), hi = std::min(part_end, shard.end);
        if (lo >= hi) continue;
        const uint64_t first = part.source_element + (lo - part_begin) / wanted_size;
        const uint64_t count = (hi - lo) / wanted_size;
        plan.reads.push_back({tensor.file, tensor.entry.offset + first * stored_size, count * stored_size,
                              tensor.entry.dtype, static_cast<int>(i), lo - shard.begin, hi - lo, slot.dtype,
                              static_cast<int>(s), part.tensor});
        plan.read_bytes += count * stored_size;
      }
    }
  }
  std::sort(plan.reads.begin(), plan.reads.end(), [](const ReadRange& a, const ReadRange& b) {
    return std::tie(a.file, a.file_offset) < std::tie(b.file, b.file_offset);
  });
  return plan;
}

void check_no_unexpected(const std::vector<ImageSpec>& specs, const CheckpointIndex& index,
                         const std::function<bool(const std::string& tensor)>& is_known_extra) {
  std::unordered_set<std::string> used;
  for (const ImageSpec& spec : specs)
    for (const ParamSpec& param : spec.params)
      for (const SourceTensor& source : param.sources) used.insert(source.name);
  std::vector<std::string> unexpected;
  for (const auto& [name, tensor] : index.tensors)
    if (!used.contains(name) && !is_known_extra(name)) unexpected.push_back(name);
  if (unexpected.empty()) return;
  std::sort(unexpected.begin(), unexpected.end());
  const CheckpointTensor* first = index.find(unexpected.front());
  throw input_error(index.files[first->file].path.string(),
                    fmt::format("{} tensor{} that config.json does not imply, the first is {}", unexpected.size(),
                                unexpected.size() == 1 ? "" : "s", unexpected.front()),
                    "config.json and the weights do not belong together");
}

}  // namespace moraine
