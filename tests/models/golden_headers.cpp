#include "models/golden_headers.h"

#include <gtest/gtest.h>

namespace moraine::testing_support {

namespace fs = std::filesystem;

fs::path headers_folder(const std::string& model) { return fs::path(MORAINE_TESTS_DIR) / "golden" / "headers" / model; }

HfConfig hub_config(const std::string& name) {
  return HfConfig::read(fs::path(MORAINE_TESTS_DIR) / "golden" / "configs" / name);
}

GoldenHeaders::GoldenHeaders(const std::string& model)
    : config(HfConfig::read(headers_folder(model))), tensors(read_json_file(headers_folder(model) / "tensors.json")) {}

CheckpointIndex GoldenHeaders::index() const {
  CheckpointIndex index;
  SafetensorsHeader file;
  file.path = "tensors.safetensors";
  for (const auto& [name, tensor] : tensors.items()) {
    SafetensorsEntry entry{name, *parse_dtype(tensor["dtype"].get<std::string>()), tensor["shape"], file.file_size, 0};
    entry.nbytes = *tensor_bytes(entry.dtype, entry.shape);
    file.file_size += entry.nbytes;
    file.entries.push_back(entry);
    index.tensors[name] = {0, entry};
  }
  index.files.push_back(std::move(file));
  return index;
}

std::string full_name(const ImageSpec& image, const ParamSpec& param) {
  return image.kind == ImageKind::kRoot ? param.name
                                        : "model." + image.name.substr(0, image.name.rfind('.')) + "." + param.name;
}

ParamSpec find_param(const std::vector<ImageSpec>& specs, const std::string& name) {
  for (const ImageSpec& image : specs)
    for (const ParamSpec& param : image.params)
      if (full_name(image, param) == name) return param;
  ADD_FAILURE() << "no parameter " << name;
  return {};
}

}  // namespace moraine::testing_support
