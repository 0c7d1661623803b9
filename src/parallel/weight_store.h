// Where a layer's base weights are while it runs: gather / get / release, one image at a time.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "parallel/layer_image.h"

namespace moraine {

// The slots of an image as tensors over its bytes (no copies).
class ImageView {
 public:
  ImageView() = default;
  // `bytes` uint8 [image.nbytes]
  ImageView(const LayerImage& image, const at::Tensor& bytes);
  // Asserts that there is such a slot.
  const at::Tensor& operator[](const std::string& slot) const;
  bool has(const std::string& slot) const { return tensors_.contains(slot); }

 private:
  std::string image_;
  std::unordered_map<std::string, at::Tensor> tensors_;
};

// uint8 [nbytes] on `device`; on the CPU backed by huge pages (copying into fresh 4 KiB pages runs at a sixth of memcpy).
at::Tensor allocate_image_bytes(uint64_t nbytes, at::Device device);

// Owns the bytes of all images of this rank. Base weights never change, so views may be kept by autograd for as long as the
// image is held.
class WeightStore {
 public:
  // `bytes[i]` holds the whole of images[i].
  WeightStore(std::vector<LayerImage> images, std::vector<at::Tensor> bytes);

  // The image's weights. Valid until release(image).
  const ImageView& acquire(int image);
  void release(int image);

  uint64_t resident_bytes() const;
  const std::vector<LayerImage>& images() const { return images_; }

 private:
  std::vector<LayerImage> images_;
  std::vector<at::Tensor> bytes_;
  std::vector<ImageView> views_;
  std::vector<int> held_;  // acquired and not released
};

}  // namespace moraine
