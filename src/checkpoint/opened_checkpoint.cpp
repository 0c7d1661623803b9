#include "checkpoint/opened_checkpoint.h"

#include <optional>
#include <utility>

#include "distributed/collectives/from_rank0.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

OpenedCheckpoint checked(CheckpointHeaders headers, std::shared_ptr<const Model> model, BaseFormat base_format) {
  OpenedCheckpoint opened{.headers = std::move(headers), .model = std::move(model)};
  const ModelLayout& layout = opened.layout();
  opened.specs = image_specs(layout, stored_in(opened.headers.index), base_format);
  opened.skipped = check_checkpoint(opened.specs, opened.headers.index,
                                    [&](const std::string& tensor) { return layout.why_skipped(tensor); });
  return opened;
}

bool holds_weights(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) return false;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().extension() == ".safetensors") return true;
  return false;
}

}  // namespace

OpenedCheckpoint open_checkpoint(const fs::path& folder, DtypeChoice dtype, BaseFormat base_format) {
  HfConfig config = HfConfig::read(folder);
  std::shared_ptr<const Model> model = make_model(config, dtype);
  return checked({std::move(config), read_checkpoint_index(folder)}, std::move(model), base_format);
}

OpenedCheckpoint checkpoint_from_rank0(const fs::path& folder, DtypeChoice dtype, BaseFormat base_format,
                                       MeshGroups& groups) {
  std::optional<OpenedCheckpoint> opened;
  const std::string text = from_rank0(groups, "checkpoint headers", [&] {
    opened = open_checkpoint(folder, dtype, base_format);
    return headers_to_text(opened->headers);
  });
  if (opened) return std::move(*opened);
  CheckpointHeaders headers = headers_from_text(text);
  std::shared_ptr<const Model> model = make_model(headers.config, dtype);
  return checked(std::move(headers), std::move(model), base_format);
}

OpenedCheckpoint open_or_assume_checkpoint(const fs::path& path, DtypeChoice dtype, BaseFormat base_format) {
  if (holds_weights(path)) return open_checkpoint(path, dtype, base_format);
  HfConfig config = HfConfig::read(path);
  std::shared_ptr<const Model> model = make_model(config, dtype);
  const ModelLayout& layout = model->layout();
  return {.headers = {std::move(config), assumed_index(image_specs(layout, no_checkpoint()))},
          .model = model,
          .specs = image_specs(layout, no_checkpoint(), base_format),
          .has_weights = false};
}

}  // namespace moraine
