// Which images of the frozen base a rank keeps whole, and which take turns in gather buffers. Pure arithmetic:
// WeightStore carries it out, and plans of memory and traffic are made of the same steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moraine {

// An image as a rank holds it before anything is gathered.
struct HeldImage {
  uint64_t bytes = 0;
  uint64_t shard_bytes = 0;  // of it on this rank; all of it where no other rank has a part
  int lane = 0;              // images of one lane take turns in the lane's buffers
  bool on_host = false;  // offloaded: this rank holds it in the host's memory, shard_bytes are those on the device: 0
};

// A lane with several images that are gathered has two buffers, a lane with one has one; each holds the lane's largest
// image. A buffer is taken for another image only after its owner's release, the one that was used longest ago first;
// so what was gathered stays until its buffer is needed.
class GatherSchedule {
 public:
  // Images are resident (kept whole) where no other rank has a part of them, and as long as the rest that is gathered
  // or copied for good comes to no more than `resident_bytes`: sharded ones first, in their order, then of the
  // offloaded ones of each lane every second, so that a copy has two layers' time.
  GatherSchedule(std::vector<HeldImage> images, uint64_t resident_bytes);

  const HeldImage& image(int image) const { return images_[image]; }
  bool is_resident(int image) const { return held_[image] == images_[image].bytes; }
  bool all_resident() const { return buffers_.empty(); }
  uint64_t held_bytes() const;    // all the time: shards, and resident images whole
  uint64_t buffer_bytes() const;  // of all gather buffers
  uint64_t host_bytes() const;    // of images that stay in the host's memory

  struct Buffer {
    int lane = 0;
    uint64_t bytes = 0;
    int owner = kNone;      // the image that is or will be in it
    uint64_t last_use = 0;  // of all uses so far, counted from 1
  };
  static constexpr int kNone = -1;
  const std::vector<Buffer>& buffers() const { return buffers_; }

  // An image that is wanted, now or soon.
  struct Use {
    size_t buffer;  // where it is or will be
    bool gathers;   // whether it was not there
  };
  // Of an image that is not resident. Asserts that a buffer is free for it: at most one other image of its lane may be
  // acquired.
  Use want(int image);

  // While an image is acquired its buffer is not taken for another one. release returns whether nobody holds it any
  // more.
  void acquire(int image) { ++users_[image]; }
  bool release(int image);
  // Nothing is in the image's buffer any more, which is returned.
  size_t drop(int image);

 private:
  size_t buffer_for(int image) const;

  std::vector<HeldImage> images_;
  std::vector<uint64_t> held_;  // bytes held of each image all the time
  std::vector<int> users_;      // of each image: acquired and not released
  std::vector<Buffer> buffers_;
  uint64_t uses_ = 0;
};

}  // namespace moraine
