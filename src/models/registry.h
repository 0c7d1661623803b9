// The families of models, one row each.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/model.h"

namespace moraine {

struct Family {
  std::string name;                        // for people: "Qwen3-MoE"
  std::vector<std::string> architectures;  // of config.json
  std::unique_ptr<ModelLayout> (*make_layout)(const HfConfig& config, DtypeChoice dtype);
  std::unique_ptr<Model> (*make_model)(const HfConfig& config, DtypeChoice dtype);
};

const std::vector<Family>& families();

// The family of architectures[0]. Throws an input error that lists those that are supported for any other (a dense
// model too).
const Family& family_of(const HfConfig& config);

}  // namespace moraine
