// A frozen base as bytes: an image is one flat buffer that holds the base weights of a layer (or of the root) in slots.
//
// Parameters are described as the model names them (ParamSpec); where a parameter's elements lie in the checkpoint is
// part of the description (SourceTensor), because one parameter may be stored as many tensors (a tensor per expert) or
// as one. An image is laid out from the specs by pure arithmetic, the same on every rank.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "distributed/collectives/mesh.h"
#include "formats/dtype.h"
#include "formats/quant_format.h"

namespace moraine {

// A checkpoint tensor whose elements, in row-major order, are the elements [first_element, first_element + its count)
// of a parameter.
struct SourceTensor {
  std::string name;
  std::vector<int64_t> shape;  // as stored
  int64_t first_element = 0;
  // Of a parameter that is dequantised while it is read: the tensor of its scales.
  std::string scale = {};
  std::vector<int64_t> scale_shape = {};
};

enum class ParamKind {
  kDense,
  kExperts,  // dim 0 is the expert; split over the ep ranks
};

// What a new model's parameter is filled with.
enum class InitialValues {
  kNormal,      // N(0, initializer_range²)
  kZeros,       // biases, sinks, norm weights that 1 is added to
  kOnes,        // norm weights, scales of hyper-connections, dt_bias
  kLogUniform,  // log of a number between 0.01 and 16: A_log
  kExpertIds,   // int64: rows of different expert ids
};

struct ParamSpec {
  std::string
      name;  // within its layer, as transformers names it: "self_attn.q_proj.weight", "mlp.experts.gate_up_proj"
  ParamKind kind = ParamKind::kDense;
  std::vector<int64_t> shape;  // of all experts
  DType dtype = DType::kF32;   // in the image; a checkpoint that stores another one is converted while it is read
  std::vector<SourceTensor> sources;  // in order of first_element, without gaps

  // What the files call the elements where that is another dtype of the same bytes: U8 for FP4 codes and E8M0 scales.
  std::optional<DType> stored_as = {};
  DType stored_dtype() const { return stored_as.value_or(dtype); }

  InitialValues init = InitialValues::kNormal;
  // A quantised matrix (one per expert): shape and dtype are of its codes, and the next parameter of the image holds
  // its scales. Along the rows it may be made of several matrices whose blocks end with them: gate_up_proj of gate_proj
  // and up_proj.
  std::optional<QuantFormat> quant = {};
  int64_t matrices = 1;
  bool is_scales = false;   // of the parameter before it
  bool transposed = false;  // each expert's matrix is [I, O], not [O, I]
  // Stored as this, but dequantised to `dtype` while it is read.
  std::optional<QuantFormat> read_from = {};
};

// Which ranks share an image, and which images take turns in the same gather buffers.
enum class ImageKind { kRoot, kDense, kExperts };

// The parameters of one image.
struct ImageSpec {
  std::string name;  // "root", "layers.3.dense", "layers.3.experts"
  ImageKind kind = ImageKind::kDense;
  std::vector<ParamSpec> params;
};

// A contiguous run of elements of a source tensor and where it lands.
struct SlotPart {
  std::string tensor;
  std::vector<int64_t> tensor_shape;  // as the checkpoint must store it
  std::string scale;                  // the tensor of its scales where it is dequantised while it is read; else empty
  int64_t source_element = 0;         // first element within the tensor
  int64_t num_elements = 0;
  int64_t slot_element = 0;  // first element within the slot
};

struct Slot {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;  // of this rank's part: dim 0 of experts counts local experts
  uint64_t offset;             // bytes from the image's beginning
  uint64_t nbytes;
  std::vector<SlotPart> parts;
  std::optional<QuantFormat> quant = {};  // the next slot holds its scales
  int64_t matrices = 1;
  std::optional<QuantFormat> read_from = {};
  bool transposed = false;
};

struct LayerImage {
  std::string name;
  std::vector<Slot> slots;
  uint64_t nbytes = 0;  // padded: num_shards × a multiple of kImageAlignment
};

// A slot starts at a multiple of this, and so does every shard, so that no element is ever split.
inline constexpr uint64_t kImageAlignment = 256;

// Lays out the image that holds all dense params and the experts of `experts`, padded so that `num_shards` divides it.
LayerImage lay_out_image(const ImageSpec& spec, ExpertRange experts, int64_t num_shards);

// Bytes [begin, end) of an image.
struct ByteRange {
  uint64_t begin = 0, end = 0;
  uint64_t size() const { return end - begin; }
};
// The shard of rank `index` of `num_shards`: equal contiguous parts.
ByteRange shard_of_image(const LayerImage& image, int64_t num_shards, int64_t index);

int64_t num_elements(const std::vector<int64_t>& shape);

}  // namespace moraine
