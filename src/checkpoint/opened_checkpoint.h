// A checkpoint opened: what config.json says of the model, and its files' headers, checked against that. No weights.
//
// A process opens its checkpoint once and passes it on to whatever asks about it: loading, plans, adapters, run.json.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/check_checkpoint.h"
#include "checkpoint/checkpoint_headers.h"
#include "distributed/collectives/mesh_groups.h"
#include "models/image_order.h"
#include "models/model.h"

namespace moraine {

struct OpenedCheckpoint {
  CheckpointHeaders headers;
  std::shared_ptr<const Model> model;
  std::vector<ImageSpec> specs =
      {};  // of all images, in the order of image_order.h, as they are held with the base format
  std::vector<SkippedTensor> skipped = {};  // tensors that no image holds
  bool has_weights = true;  // false: there are no files, and the headers are those that the hub's would have

  const ModelLayout& layout() const { return model->layout(); }
  const ModelShape& shape() const { return model->shape(); }
};

// `dtype` as model.dtype. Throws input errors for anything wrong with the folder; for a model that is not supported
// before its files are looked at, whatever else is wrong with them.
OpenedCheckpoint open_checkpoint(const std::filesystem::path& folder, DtypeChoice dtype,
                                 BaseFormat base_format = BaseFormat::kStored);
// The same on all ranks of the world, which must call this; only rank 0 opens the folder.
OpenedCheckpoint checkpoint_from_rank0(const std::filesystem::path& folder, DtypeChoice dtype, BaseFormat base_format,
                                       MeshGroups& groups);
// Without safetensors files too, for plans: then the hub's layout is assumed, and `path` may name config.json itself.
OpenedCheckpoint open_or_assume_checkpoint(const std::filesystem::path& path, DtypeChoice dtype,
                                           BaseFormat base_format);

}  // namespace moraine
