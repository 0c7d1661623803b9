#include "parallel/weight_store.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "base/bytes.h"
#include "base/error.h"
#include "tensor/torch_dtype.h"

namespace moraine {

ImageView::ImageView(const LayerImage& image, const at::Tensor& bytes) : image_(image.name) {
  MORAINE_ASSERT(static_cast<uint64_t>(bytes.numel()) == image.nbytes, "bytes of image " + image.name);
  const auto tensor_of = [&](const Slot& slot) {
    return bytes.narrow(0, slot.offset, slot.nbytes).view(torch_dtype(slot.dtype)).view(slot.shape);
  };
  for (size_t i = 0; i < image.slots.size(); ++i) {
    const Slot& slot = image.slots[i];
    at::Tensor scales;
    if (slot.quant) scales = tensor_of(image.slots.at(i + 1));
    weights_[slot.name] = {tensor_of(slot), scales, slot.quant, slot.matrices, slot.transposed};
  }
}

const ImageView::Weight& ImageView::weight(const std::string& slot) const {
  auto it = weights_.find(slot);
  MORAINE_ASSERT(it != weights_.end(), "no slot " + slot + " in image " + image_);
  return it->second;
}

namespace {

// MORAINE_POISON=1, for tests: memory that holds no weights holds NaNs (all bits set), so that whoever uses padding, a
// buffer before its gather or one after its release gets NaNs instead of old weights.
bool poison() {
  static const char* set = std::getenv("MORAINE_POISON");
  return set && *set && *set != '0';
}

at::Tensor unfilled_bytes(uint64_t nbytes, at::Device device) {
  auto options = at::TensorOptions().dtype(at::kByte);
  if (!device.is_cpu()) return at::empty({static_cast<int64_t>(nbytes)}, options.device(device));
  constexpr uint64_t kHugePage = uint64_t{2} << 20;
  if (nbytes < kHugePage) return at::empty({static_cast<int64_t>(nbytes)}, options);
  const uint64_t mapped = round_up(nbytes, kHugePage);
  void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw run_error("memory", "cannot allocate " + format_bytes(nbytes) + " for base weights");
  madvise(p, mapped, MADV_HUGEPAGE);  // advice only: without it the pages are small ones
  return at::from_blob(
      p, {static_cast<int64_t>(nbytes)}, [mapped](void* q) { munmap(q, mapped); }, options);
}

}  // namespace

at::Tensor allocate_image_bytes(uint64_t nbytes, at::Device device) {
  at::Tensor bytes = unfilled_bytes(nbytes, device);
  if (poison()) bytes.fill_(0xff);
  return bytes;
}

// The bytes of one of the schedule's buffers.
struct WeightStore::Buffer {
  at::Tensor bytes;  // uint8
  bool in_flight = false;
  Work gather;
  HostCopy copy;
  ImageView view;

  void wait() {
    if (!in_flight) return;
    gather.wait();
    copy.wait();
    in_flight = false;
  }
};

GatherSchedule schedule_of(const std::vector<StoredImage>& images, uint64_t resident_bytes) {
  std::vector<HeldImage> held;
  for (const StoredImage& stored : images) {
    const uint64_t parts = stored.group ? static_cast<uint64_t>(stored.group->size()) : 1;
    held.push_back(
        {stored.image.nbytes, stored.offloaded ? 0 : stored.image.nbytes / parts, stored.lane, stored.offloaded});
  }
  return GatherSchedule(std::move(held), resident_bytes);
}

// Of an image that is to be resident.
void WeightStore::keep_whole(StoredImage& stored) {
  if (static_cast<uint64_t>(stored.shard.numel()) == stored.image.nbytes) return;
  at::Tensor whole = allocate_image_bytes(stored.image.nbytes, device_);
  stored.group->all_gather_into_tensor(whole, stored.shard);
  stored.shard = std::move(whole);
}

WeightStore::WeightStore(std::vector<StoredImage> images, uint64_t resident_bytes, c10::Device device)
    : images_(std::move(images)),
      schedule_(schedule_of(images_, resident_bytes)),
      device_(device),
      host_copies_(device),
      resident_views_(images_.size()) {
  for (size_t i = 0; i < images_.size(); ++i) {
    if (!schedule_.is_resident(static_cast<int>(i))) continue;
    keep_whole(images_[i]);
    resident_views_[i] = ImageView(images_[i].image, images_[i].shard);
  }
  for (const GatherSchedule::Buffer& buffer : schedule_.buffers())
    buffers_.emplace_back().bytes = allocate_image_bytes(buffer.bytes, device_);
}

WeightStore::~WeightStore() = default;

// The buffer that the image is or will be in.
WeightStore::Buffer& WeightStore::gather(int image) {
  const GatherSchedule::Use use = schedule_.want(image);
  Buffer& buffer = buffers_[use.buffer];
  if (!use.gathers) return buffer;
  buffer.wait();  // a gather that nobody came for must not write into it later
  const StoredImage& stored = images_[image];
  const at::Tensor whole = buffer.bytes.narrow(0, 0, static_cast<int64_t>(stored.image.nbytes));
  if (stored.offloaded)
    buffer.copy = host_copies_.start(whole, stored.shard);
  else
    buffer.gather = stored.group->all_gather_into_tensor_async(whole, stored.shard);
  buffer.in_flight = true;
  buffer.view = ImageView(stored.image, whole);
  return buffer;
}

void WeightStore::prefetch(int image) {
  if (!schedule_.is_resident(image)) gather(image);
}

const ImageView& WeightStore::acquire(int image) {
  schedule_.acquire(image);
  if (schedule_.is_resident(image)) return resident_views_[image];
  Buffer& buffer = gather(image);
  buffer.wait();
  return buffer.view;
}

void WeightStore::release(int image) {
  if (!schedule_.release(image) || schedule_.is_resident(image) || !poison()) return;
  Buffer& buffer = buffers_[schedule_.drop(image)];
  buffer.wait();
  buffer.bytes.fill_(0xff);
}

}  // namespace moraine
