#include "parallel/weight_store.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "base/bytes.h"
#include "base/error.h"
#include "parallel/torch_dtype.h"

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
    weights_[slot.name] = {tensor_of(slot), scales, slot.quant, slot.matrices};
  }
}

const ImageView::Weight& ImageView::weight(const std::string& slot) const {
  auto it = weights_.find(slot);
  MORAINE_ASSERT(it != weights_.end(), "no slot " + slot + " in image " + image_);
  return it->second;
}

namespace {

// MORAINE_POISON=1, for tests: memory that holds no weights holds NaNs (all bits set), so that whoever uses padding, a buffer
// before its gather or one after its release gets NaNs instead of old weights.
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
  return at::from_blob(p, {static_cast<int64_t>(nbytes)}, [mapped](void* q) { munmap(q, mapped); }, options);
}

}  // namespace

at::Tensor allocate_image_bytes(uint64_t nbytes, at::Device device) {
  at::Tensor bytes = unfilled_bytes(nbytes, device);
  if (poison()) bytes.fill_(0xff);
  return bytes;
}

// One gather buffer of a lane.
struct WeightStore::Buffer {
  at::Tensor bytes;  // uint8, of the lane's largest image
  int owner = -1;    // the image that is or will be in it
  bool in_flight = false;
  Work gather;
  ImageView view;
  uint64_t last_use = 0;

  void wait() {
    if (!in_flight) return;
    gather.wait();
    in_flight = false;
  }
};

void WeightStore::gather_for_good(StoredImage& stored) {
  at::Tensor whole = allocate_image_bytes(stored.image.nbytes, stored.shard.device());
  stored.group->all_gather_into_tensor(whole, stored.shard);
  stored.shard = std::move(whole);
}

WeightStore::WeightStore(std::vector<StoredImage> images, uint64_t resident_bytes)
    : images_(std::move(images)), resident_views_(images_.size()), held_(images_.size(), 0) {
  for (size_t i = 0; i < images_.size(); ++i) {
    const uint64_t more = images_[i].image.nbytes - images_[i].shard.numel();
    if (is_resident(static_cast<int>(i)) || more > resident_bytes) continue;
    gather_for_good(images_[i]);
    resident_bytes -= more;
  }
  std::vector<uint64_t> largest, count;
  for (size_t i = 0; i < images_.size(); ++i) {
    const StoredImage& stored = images_[i];
    if (is_resident(static_cast<int>(i))) {
      resident_views_[i] = ImageView(stored.image, stored.shard);
      continue;
    }
    if (stored.lane >= static_cast<int>(largest.size())) largest.resize(stored.lane + 1), count.resize(stored.lane + 1);
    largest[stored.lane] = std::max(largest[stored.lane], stored.image.nbytes);
    ++count[stored.lane];
  }
  lanes_.resize(largest.size());
  for (size_t lane = 0; lane < largest.size(); ++lane) {
    for (uint64_t i = 0; i < std::min<uint64_t>(count[lane], 2); ++i) {
      lanes_[lane].push_back(std::make_unique<Buffer>());
      lanes_[lane].back()->bytes = allocate_image_bytes(largest[lane], images_.front().shard.device());
    }
  }
}

WeightStore::~WeightStore() = default;

WeightStore::Buffer& WeightStore::buffer_for(int image) {
  Buffer* oldest_free = nullptr;
  for (auto& buffer : lanes_[images_[image].lane]) {
    if (buffer->owner == image) return *buffer;
    if (buffer->owner >= 0 && held_[buffer->owner] > 0) continue;
    if (!oldest_free || buffer->last_use < oldest_free->last_use) oldest_free = buffer.get();
  }
  MORAINE_ASSERT(oldest_free, "all gather buffers are held when " + images_[image].image.name + " is wanted");
  return *oldest_free;
}

void WeightStore::prefetch(int image) {
  if (is_resident(image)) return;
  Buffer& buffer = buffer_for(image);
  buffer.last_use = ++clock_;
  if (buffer.owner == image) return;
  buffer.wait();  // a gather that nobody came for must not write into it later
  const StoredImage& stored = images_[image];
  buffer.owner = image;
  const at::Tensor whole = buffer.bytes.narrow(0, 0, static_cast<int64_t>(stored.image.nbytes));
  buffer.gather = stored.group->all_gather_into_tensor_async(whole, stored.shard);
  buffer.in_flight = true;
  buffer.view = ImageView(stored.image, whole);
}

const ImageView& WeightStore::acquire(int image) {
  ++held_[image];
  if (is_resident(image)) return resident_views_[image];
  prefetch(image);
  Buffer& buffer = buffer_for(image);
  buffer.wait();
  return buffer.view;
}

void WeightStore::release(int image) {
  MORAINE_ASSERT(held_[image] > 0, "release of an image that is not held: " + images_[image].image.name);
  if (--held_[image] > 0 || is_resident(image) || !poison()) return;
  Buffer& buffer = buffer_for(image);
  buffer.wait();
  buffer.bytes.fill_(0xff);
  buffer.owner = -1;
}

bool WeightStore::all_resident() const { return lanes_.empty(); }

uint64_t WeightStore::shard_bytes() const {
  uint64_t sum = 0;
  for (const StoredImage& stored : images_) sum += stored.shard.numel();
  return sum;
}

uint64_t WeightStore::gather_buffer_bytes() const {
  uint64_t sum = 0;
  for (const auto& lane : lanes_)
    for (const auto& buffer : lane) sum += buffer->bytes.numel();
  return sum;
}

}  // namespace moraine
