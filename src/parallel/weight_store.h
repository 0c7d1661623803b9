// Where a layer's base weights are while it runs: gather / get / release, one image at a time.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "distributed/collectives/process_group.h"
#include "parallel/gather_schedule.h"
#include "parallel/host_copy.h"
#include "parallel/layer_image.h"

namespace moraine {

// The slots of an image as tensors over its bytes (no copies).
class ImageView {
 public:
  ImageView() = default;
  // `bytes` uint8 [image.nbytes]
  ImageView(const LayerImage& image, const at::Tensor& bytes);
  struct Weight {
    at::Tensor values;
    at::Tensor scales;                 // undefined: not quantised
    std::optional<QuantFormat> quant;  // of values
    int64_t matrices = 1;              // see ParamSpec
    bool transposed = false;           // likewise
  };
  // Both assert that there is such a slot.
  const Weight& weight(const std::string& slot) const;
  const at::Tensor& operator[](const std::string& slot) const { return weight(slot).values; }
  bool has(const std::string& slot) const { return weights_.contains(slot); }

 private:
  std::string image_;
  std::unordered_map<std::string, Weight> weights_;
};

// uint8 [nbytes] on `device`; on the CPU backed by huge pages (copying into fresh 4 KiB pages runs at a sixth of
// memcpy).
at::Tensor allocate_image_bytes(uint64_t nbytes, at::Device device);

// This rank's part of an image.
struct StoredImage {
  LayerImage image;
  at::Tensor shard;  // uint8, the shard of group->rank() of group->size(); the whole image where it is resident
  ProcessGroup* group = nullptr;  // the ranks that hold the other shards; outlives the store
  int lane = 0;                   // see GatherSchedule
  // The shard is the whole image, in the host's memory (pinned, for a device) where the schedule does not keep it.
  bool offloaded = false;
};

// The schedule of these images, of which `images` may still lack shards: what is kept of them is of their sizes alone.
GatherSchedule schedule_of(const std::vector<StoredImage>& images, uint64_t resident_bytes);

// Hands out images. Those that are sharded are gathered into a buffer as a GatherSchedule says, one all-gather per
// image; those that are offloaded are copied there. Base weights never change, so a gathered image stays valid until
// its buffer is needed again, and autograd may keep views for as long as the image is held.
//
// All ranks of a group must prefetch and acquire the group's images in the same order.
//
// On CUDA a gather waits for what the current stream has been given so far, so buffers are safe as long as one stream
// computes.
class WeightStore {
 public:
  // `resident_bytes` as in GatherSchedule; all ranks of a group must say the same. `device`: where images are used.
  explicit WeightStore(std::vector<StoredImage> images, uint64_t resident_bytes = 0, c10::Device device = at::kCPU);
  ~WeightStore();

  // Starts gathering `image` unless it is there. At most one image of a lane may be held meanwhile (asserted).
  void prefetch(int image);
  // The image's weights, gathered if need be. Valid until release(image).
  const ImageView& acquire(int image);
  void release(int image);

  // Whether every image is held whole, without gathering.
  bool all_resident() const { return schedule_.all_resident(); }

 private:
  struct Buffer;
  void keep_whole(StoredImage& stored);
  Buffer& gather(int image);

  std::vector<StoredImage> images_;
  GatherSchedule schedule_;
  c10::Device device_;
  HostCopies host_copies_;
  std::vector<ImageView> resident_views_;  // of resident images
  std::vector<Buffer> buffers_;            // of the schedule
};

}  // namespace moraine
