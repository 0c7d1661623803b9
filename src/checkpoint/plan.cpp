#include "checkpoint/plan.h"

#include <algorithm>

#include "base/error.h"

namespace moraine {

LoadPlan plan_reads(const std::vector<ShardPlan>& shards, const CheckpointIndex& index) {
  LoadPlan plan;
  plan.shards = shards;
  for (size_t i = 0; i < shards.size(); ++i) {
    const LayerImage& image = *shards[i].image;
    const ByteRange shard = shards[i].shard;
    plan.shard_bytes += shard.size();
    // Slots and their parts lie in order, so those that touch the shard follow each other: with a thousand ranks each
    // looks at its own few only.
    auto slot = std::partition_point(image.slots.begin(), image.slots.end(),
                                     [&](const Slot& s) { return s.offset + s.nbytes <= shard.begin; });
    for (; slot != image.slots.end() && slot->offset < shard.end; ++slot) {
      const uint64_t wanted_size = dtype_bits(slot->dtype) / 8;
      auto part_begin = [&](const SlotPart& p) { return slot->offset + p.slot_element * wanted_size; };
      auto part_end = [&](const SlotPart& p) { return part_begin(p) + p.num_elements * wanted_size; };
      auto part = std::partition_point(slot->parts.begin(), slot->parts.end(),
                                       [&](const SlotPart& p) { return part_end(p) <= shard.begin; });
      for (; part != slot->parts.end() && part_begin(*part) < shard.end; ++part) {
        const uint64_t lo = std::max(part_begin(*part), shard.begin), hi = std::min(part_end(*part), shard.end);
        if (lo >= hi) continue;
        const CheckpointTensor* tensor = index.find(part->tensor);
        MORAINE_ASSERT(tensor, "an unchecked checkpoint is planned: no tensor " + part->tensor);
        const uint64_t first = part->source_element + (lo - part_begin(*part)) / wanted_size;
        const uint64_t count = (hi - lo) / wanted_size;
        FileRange from{tensor->file, 0, 0, tensor->entry.dtype, slot->dtype};
        if (!part->scale.empty()) {
          from.codes = tensor;
          from.scales = index.find(part->scale);
          from.format = *slot->read_from;
          MORAINE_ASSERT(from.scales, "an unchecked checkpoint is planned: no tensor " + part->scale);
          if (from.format.is_fp4()) from.stored = DType::kF4;
        } else if (from.stored == DType::kU8 && dtype_bits(slot->dtype) == 8) {
          from.stored = slot->dtype;  // ParamSpec::stored_as
        }
        // Slots and shards begin at multiples of kImageAlignment, and rows of FP4 codes are whole bytes: no byte is
        // split.
        const uint64_t stored_bits = dtype_bits(from.stored);
        from.offset = tensor->entry.offset + first * stored_bits / 8;
        from.nbytes = count * stored_bits / 8;
        plan.read_bytes += from.read_nbytes();
        plan.reads.push_back({from, static_cast<int>(i), lo - shard.begin, part->tensor});
      }
    }
  }
  std::sort(plan.reads.begin(), plan.reads.end(),
            [](const ReadRange& a, const ReadRange& b) { return a.from < b.from; });
  return plan;
}

}  // namespace moraine
