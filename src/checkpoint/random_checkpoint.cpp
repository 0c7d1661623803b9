#include "checkpoint/random_checkpoint.h"

#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "checkpoint/random_values.h"
#include "config/hf_config.h"
#include "distributed/control/launch.h"
#include "formats/checkpoint_writer.h"
#include "models/model_layout.h"
#include "models/param_specs.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kRunStart = 2;  // as fill_values asks

// What is known of a tensor besides its declaration.
struct RandomTensor {
  RandomFill fill;
  uint64_t parameters;  // of the model, as count_parameters has it
};

struct RandomTensors {
  NewCheckpoint checkpoint;
  std::vector<RandomTensor> random;  // of each tensor of the checkpoint
};

// Every tensor of a checkpoint in the hub's layout, in the model's order. `images` outlive the result.
RandomTensors checkpoint_tensors(const std::vector<ImageSpec>& images, const HfConfig& config) {
  RandomTensors tensors;
  for (const ImageSpec& image : images) {
    for (const ParamSpec& param : image.params) {
      const auto format = [](const ParamSpec* quantised) {
        return quantised && quantised->quant ? &*quantised->quant : nullptr;
      };
      const RandomFill fill{param.init, format(&param), format(scaled_param(param))};
      const uint64_t elements = num_elements(param.shape), parameters = count_parameters(param);
      for (const SourceTensor& source : param.sources) {
        const auto nbytes = tensor_bytes(param.dtype, source.shape);
        if (!nbytes) throw input_error(config.where(), "tensor " + source.name + " is too large");
        tensors.checkpoint.tensors.push_back({{source.name, param.stored_dtype(), source.shape}, kRunStart});
        const uint64_t per_element = parameters / elements;  // 0, 1 or 2
        tensors.random.push_back({fill, per_element * (*nbytes * 8 / dtype_bits(param.dtype))});
      }
    }
  }
  return tensors;
}

std::unique_ptr<ModelLayout> layout_of(const HfConfig& config, const std::string& dtype) {
  if (!dtype.empty() && dtype != "bfloat16" && dtype != "float32") {
    throw input_error("--dtype", quote_text(dtype) + " is not a dtype that can be written", "bfloat16 or float32");
  }
  if (dtype.empty() && config.dtype() == DType::kF16) {
    throw input_error(config.where(), "its dtype is float16", "add --dtype bfloat16 or --dtype float32");
  }
  return make_layout(config, dtype.empty()        ? DtypeChoice::kAuto
                             : dtype == "float32" ? DtypeChoice::kFloat32
                                                  : DtypeChoice::kBFloat16);
}

}  // namespace

RandomCheckpoint write_random_checkpoint(const fs::path& config_json, const fs::path& folder,
                                         const RandomCheckpointOptions& options) {
  const HfConfig config = HfConfig::read(config_json);
  const auto layout = layout_of(config, options.dtype);
  check_new_folder(folder);
  const HfConfig text = config.has("text_config") ? config.object("text_config") : config;
  const double initializer_range = text.number("initializer_range", 0.02);
  if (!(initializer_range >= 0) || !std::isfinite(initializer_range)) {
    throw input_error(config.where(), "initializer_range must be 0 or more");
  }

  const std::vector<ImageSpec> images = image_specs(*layout, no_checkpoint());
  RandomTensors tensors = checkpoint_tensors(images, config);
  tensors.checkpoint.max_file_bytes = options.max_file_bytes;
  tensors.checkpoint.num_threads = static_cast<int>(default_thread_count(1));
  RandomCheckpoint written;
  written.dtype = layout->shape().dtype == DType::kBF16 ? "bfloat16" : "float32";
  written.tensors = tensors.random.size();
  written.bytes = tensors.checkpoint.total_bytes();
  for (const RandomTensor& tensor : tensors.random) written.parameters += tensor.parameters;

  const RandomModel model{options.seed, static_cast<float>(initializer_range), layout->shape().num_experts};
  const std::string config_text = config_text_with_dtype(config_json, written.dtype);
  const auto fill = [&](size_t t, uint64_t first, uint64_t count, std::byte* into) {
    fill_values(model, tensors.checkpoint.tensors[t].declared, tensors.random[t].fill, first, count, into);
  };
  written.files =
      write_checkpoint(folder, tensors.checkpoint, fill, config_text.size(),
                       [&](const fs::path& temporary) { write_file_atomic(temporary / "config.json", config_text); });
  return written;
}

}  // namespace moraine
