#include "parallel/layer_image.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/error.h"

namespace moraine {
namespace {

// The pieces of `spec`'s sources that cover its elements [begin, end), in order.
std::vector<SlotPart> parts_of(const ParamSpec& spec, int64_t begin, int64_t end) {
  std::vector<SlotPart> parts;
  int64_t next = begin;
  for (const SourceTensor& source : spec.sources) {
    int64_t source_end =
        source.first_element + num_elements(source.shape) * (spec.read_from ? spec.read_from->per_stored() : 1);
    int64_t lo = std::max(begin, source.first_element), hi = std::min(end, source_end);
    if (lo >= hi) continue;
    MORAINE_ASSERT(lo == next, "sources of " + spec.name + " leave a gap or overlap");
    parts.push_back({source.name, source.shape, source.scale, lo - source.first_element, hi - lo, lo - begin});
    next = hi;
  }
  MORAINE_ASSERT(next == end, "sources of " + spec.name + " do not cover it");
  return parts;
}

}  // namespace

int64_t num_elements(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

LayerImage lay_out_image(const ImageSpec& spec, ExpertRange experts, int64_t num_shards) {
  LayerImage image;
  image.name = spec.name;
  uint64_t offset = 0;
  for (const ParamSpec& param : spec.params) {
    Slot slot{param.name, param.dtype, param.shape,    offset,          0,
              {},         param.quant, param.matrices, param.read_from, param.transposed};
    int64_t begin = 0, end = num_elements(param.shape);
    if (param.kind == ParamKind::kExperts) {
      int64_t elements_of_expert = end / param.shape[0];
      begin = experts.first * elements_of_expert;
      end = experts.end() * elements_of_expert;
      slot.shape[0] = experts.count;
    }
    slot.nbytes = static_cast<uint64_t>(end - begin) * dtype_bits(param.dtype) / 8;
    slot.parts = parts_of(param, begin, end);
    offset = round_up(offset + slot.nbytes, kImageAlignment);
    image.slots.push_back(std::move(slot));
  }
  image.nbytes = round_up(offset, kImageAlignment * static_cast<uint64_t>(num_shards));
  return image;
}

ByteRange shard_of_image(const LayerImage& image, int64_t num_shards, int64_t index) {
  uint64_t size = image.nbytes / num_shards;
  return {size * index, size * (index + 1)};
}

}  // namespace moraine
