#include "parallel/weight_store.h"

#include <sys/mman.h>

#include "base/bytes.h"
#include "base/error.h"
#include "parallel/torch_dtype.h"

namespace moraine {

ImageView::ImageView(const LayerImage& image, const at::Tensor& bytes) : image_(image.name) {
  MORAINE_ASSERT(static_cast<uint64_t>(bytes.numel()) == image.nbytes, "bytes of image " + image.name);
  for (const Slot& slot : image.slots) {
    at::Tensor slot_bytes = bytes.narrow(0, slot.offset, slot.nbytes);
    tensors_[slot.name] = slot_bytes.view(torch_dtype(slot.dtype)).view(slot.shape);
  }
}

const at::Tensor& ImageView::operator[](const std::string& slot) const {
  auto it = tensors_.find(slot);
  MORAINE_ASSERT(it != tensors_.end(), "no slot " + slot + " in image " + image_);
  return it->second;
}

at::Tensor allocate_image_bytes(uint64_t nbytes, at::Device device) {
  auto options = at::TensorOptions().dtype(at::kByte);
  if (!device.is_cpu()) return at::empty({static_cast<int64_t>(nbytes)}, options.device(device));
  constexpr uint64_t kHugePage = uint64_t{2} << 20;
  if (nbytes < kHugePage) return at::empty({static_cast<int64_t>(nbytes)}, options);
  const uint64_t mapped = round_up(nbytes, kHugePage);
  void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw run_error("memory", "cannot allocate " + format_bytes(nbytes) + " for base weights");
  madvise(p, mapped, MADV_HUGEPAGE);  // advice only: without it the pages are small ones
  return at::from_blob(p, {static_cast<int64_t>(nbytes)}, [mapped](void* q) { munmap(q, mapped); }, options);
}

WeightStore::WeightStore(std::vector<LayerImage> images, std::vector<at::Tensor> bytes)
    : images_(std::move(images)), bytes_(std::move(bytes)), held_(images_.size(), 0) {
  MORAINE_ASSERT(images_.size() == bytes_.size(), "one buffer an image");
  for (size_t i = 0; i < images_.size(); ++i) views_.emplace_back(images_[i], bytes_[i]);
}

const ImageView& WeightStore::acquire(int image) {
  ++held_[image];
  return views_[image];
}

void WeightStore::release(int image) {
  MORAINE_ASSERT(held_[image] > 0, "release of an image that is not held: " + images_[image].name);
  --held_[image];
}

uint64_t WeightStore::resident_bytes() const {
  uint64_t sum = 0;
  for (const LayerImage& image : images_) sum += image.nbytes;
  return sum;
}

}  // namespace moraine
