// Reference models without their weights: tests/golden/headers (tools/make_header_fixtures.py) and
// tests/golden/configs.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/json.h"
#include "families.h"
#include "formats/checkpoint_index.h"
#include "models/model_layout.h"

namespace moraine::testing_support {

std::filesystem::path headers_folder(const std::string& model);

// config.json of a real-size model.
HfConfig hub_config(const std::string& name);

// A reference model whose headers may be changed: {tensor: {dtype, shape}}.
struct GoldenHeaders {
  HfConfig config;
  Json tensors;

  explicit GoldenHeaders(const std::string& model);
  std::unique_ptr<ModelLayout> layout(DtypeChoice dtype = DtypeChoice::kAuto) const {
    return make_layout(config, dtype);
  }
  // Of one file, "tensors.safetensors".
  CheckpointIndex index() const;
};

// The parameter of any of the model's images, by its full name as transformers has it ("model.layers.0.…"). Fails the
// test when there is none.
ParamSpec find_param(const std::vector<ImageSpec>& specs, const std::string& full_name);
// "model.layers.3.self_attn.q_proj.weight" of "self_attn.q_proj.weight" in the image "layers.3.dense".
std::string full_name(const ImageSpec& image, const ParamSpec& param);

}  // namespace moraine::testing_support
