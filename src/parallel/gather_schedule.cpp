#include "parallel/gather_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "base/error.h"

namespace moraine {
namespace {

// Which image has the first, second, … claim to be resident.
std::vector<size_t> order_of_residence(const std::vector<HeldImage>& images) {
  std::array<std::vector<size_t>, 3> claims;  // sharded; offloaded, every second; the others
  std::map<int, size_t> offloaded;
  for (size_t i = 0; i < images.size(); ++i)
    claims[images[i].on_host ? 1 + offloaded[images[i].lane]++ % 2 : 0].push_back(i);
  std::vector<size_t> order;
  for (const std::vector<size_t>& claim : claims) order.insert(order.end(), claim.begin(), claim.end());
  return order;
}

}  // namespace

GatherSchedule::GatherSchedule(std::vector<HeldImage> images, uint64_t resident_bytes)
    : images_(std::move(images)), users_(images_.size(), 0) {
  struct Lane {
    uint64_t largest = 0;
    int images = 0;
  };
  std::map<int, Lane> gathered;
  held_.resize(images_.size());
  for (const size_t i : order_of_residence(images_)) {
    const HeldImage& image = images_[i];
    const uint64_t more = image.bytes - image.shard_bytes;
    if (more <= resident_bytes) {
      held_[i] = image.bytes;
      resident_bytes -= more;
      continue;
    }
    held_[i] = image.shard_bytes;
    Lane& lane = gathered[image.lane];
    lane.largest = std::max(lane.largest, image.bytes);
    ++lane.images;
  }
  for (const auto& [number, lane] : gathered)
    buffers_.resize(buffers_.size() + std::min(lane.images, 2), {number, lane.largest});
}

uint64_t GatherSchedule::held_bytes() const {
  uint64_t sum = 0;
  for (uint64_t bytes : held_) sum += bytes;
  return sum;
}

uint64_t GatherSchedule::buffer_bytes() const {
  uint64_t sum = 0;
  for (const Buffer& buffer : buffers_) sum += buffer.bytes;
  return sum;
}

uint64_t GatherSchedule::host_bytes() const {
  uint64_t sum = 0;
  for (size_t i = 0; i < images_.size(); ++i)
    if (images_[i].on_host && held_[i] < images_[i].bytes) sum += images_[i].bytes;
  return sum;
}

size_t GatherSchedule::buffer_for(int image) const {
  std::optional<size_t> oldest_free;
  for (size_t b = 0; b < buffers_.size(); ++b) {
    const Buffer& buffer = buffers_[b];
    if (buffer.lane != images_[image].lane) continue;
    if (buffer.owner == image) return b;
    if (buffer.owner != kNone && users_[buffer.owner] > 0) continue;
    if (!oldest_free || buffer.last_use < buffers_[*oldest_free].last_use) oldest_free = b;
  }
  MORAINE_ASSERT(oldest_free, fmt::format("all gather buffers are held when image {} is wanted", image));
  return *oldest_free;
}

GatherSchedule::Use GatherSchedule::want(int image) {
  const size_t b = buffer_for(image);
  Buffer& buffer = buffers_[b];
  buffer.last_use = ++uses_;
  const bool gathers = buffer.owner != image;
  buffer.owner = image;
  return {b, gathers};
}

bool GatherSchedule::release(int image) {
  MORAINE_ASSERT(users_[image] > 0, fmt::format("release of image {}, which is not held", image));
  return --users_[image] == 0;
}

size_t GatherSchedule::drop(int image) {
  const size_t b = buffer_for(image);
  buffers_[b].owner = kNone;
  return b;
}

}  // namespace moraine
