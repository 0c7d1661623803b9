#include "cli/random_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "base/workers.h"
#include "cli/random_values.h"
#include "dist/launch.h"
#include "formats/safetensors.h"
#include "models/model_layout.h"
#include "models/param_specs.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBufferBytes = 64 << 20;
constexpr uint64_t kPieceElements = 1 << 20;  // even, as fill_values asks

struct NewTensor {
  SafetensorsStream::Declared declared;
  Values values;
  uint64_t elements, nbytes;
  uint64_t parameters;  // of the model, as count_parameters has it
};

// Elements [first, first + count) of a tensor on their way to disk.
struct Piece {
  const NewTensor* tensor;
  uint64_t first, count;
  uint64_t buffer_offset;
};

// Makes the tensors of one file a buffer at a time, by all cores, and appends them.
void write_file(const fs::path& path, const std::vector<NewTensor>& tensors, const RandomModel& model, int num_threads) {
  std::vector<SafetensorsStream::Declared> declared;
  for (const NewTensor& tensor : tensors) declared.push_back(tensor.declared);
  SafetensorsStream stream(path, declared, {{"format", "pt"}});
  std::vector<std::byte> buffer(kBufferBytes);
  std::vector<Piece> pieces;
  uint64_t used = 0;
  const auto flush = [&] {
    for_each_item(pieces.size(), num_threads, [&](size_t i) {
      const Piece& piece = pieces[i];
      fill_values(model, piece.tensor->declared, piece.tensor->values, piece.first, piece.count,
                  buffer.data() + piece.buffer_offset);
    });
    stream.append({buffer.data(), used});
    pieces.clear();
    used = 0;
  };
  for (const NewTensor& tensor : tensors) {
    const uint64_t element_bytes = dtype_bits(tensor.declared.dtype) / 8;
    for (uint64_t first = 0; first < tensor.elements; first += kPieceElements) {
      const uint64_t count = std::min(kPieceElements, tensor.elements - first);
      if (used + count * element_bytes > buffer.size()) flush();
      pieces.push_back({&tensor, first, count, used});
      used += count * element_bytes;
    }
  }
  flush();
  stream.finish();
}

// Every tensor of a checkpoint in the hub's layout, in the model's order.
std::vector<NewTensor> checkpoint_tensors(const ModelLayout& layout, const HfConfig& config) {
  std::vector<NewTensor> tensors;
  for (const ImageSpec& image : image_specs(layout, no_checkpoint())) {
    for (const ParamSpec& param : image.params) {
      const Values values = initial_values(config, image, param);
      const uint64_t elements = num_elements(param.shape), parameters = count_parameters(image, param);
      for (const SourceTensor& source : param.sources) {
        const auto nbytes = tensor_bytes(param.dtype, source.shape);
        if (!nbytes) throw input_error(config.where(), "tensor " + source.name + " is too large");
        NewTensor tensor{{source.name, param.dtype, source.shape}, values, *nbytes * 8 / dtype_bits(param.dtype), *nbytes, 0};
        tensor.parameters = parameters / elements * tensor.elements;  // 0, 1 or 2 for each element
        tensors.push_back(std::move(tensor));
      }
    }
  }
  return tensors;
}

std::vector<std::vector<NewTensor>> split_into_files(std::vector<NewTensor> tensors, uint64_t max_file_bytes) {
  std::vector<std::vector<NewTensor>> files(1);
  uint64_t bytes = 0;
  for (NewTensor& tensor : tensors) {
    if (!files.back().empty() && bytes + tensor.nbytes > max_file_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    bytes += tensor.nbytes;
    files.back().push_back(std::move(tensor));
  }
  // As the format's reference writer has it, so that every tensor starts at a multiple of its element's size.
  const auto wider_first = [](const NewTensor& a, const NewTensor& b) { return a.declared.dtype > b.declared.dtype; };
  for (auto& file : files) std::stable_sort(file.begin(), file.end(), wider_first);
  return files;
}

std::string file_name(size_t index, size_t num_files) {
  if (num_files == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, num_files);
}

std::string index_json(const std::vector<std::vector<NewTensor>>& files, uint64_t total_bytes) {
  OrderedJson weight_map = OrderedJson::object();
  for (size_t i = 0; i < files.size(); ++i)
    for (const NewTensor& tensor : files[i]) weight_map[tensor.declared.name] = file_name(i, files.size());
  return OrderedJson{{"metadata", {{"total_size", total_bytes}}}, {"weight_map", std::move(weight_map)}}.dump(2) + "\n";
}

// The config as it is, but with the dtype that was written wherever it says one, under whichever of its two names.
std::string config_with_dtype(const fs::path& config_json, const std::string& dtype) {
  OrderedJson config = parse_ordered_json(read_text_file(config_json), config_json.string());
  bool said = false;
  const auto replace_in = [&](OrderedJson& object) {
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (!object.contains(key)) continue;
      object[key] = dtype;
      said = true;
    }
  };
  replace_in(config);
  if (config.contains("text_config") && config["text_config"].is_object()) replace_in(config["text_config"]);
  if (!said) config["torch_dtype"] = dtype;
  return config.dump(2) + "\n";
}

void check_folder(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder, error)) return;
  if (!fs::is_directory(folder)) throw input_error(folder.string(), "is a file, not a folder");
  if (!fs::is_empty(folder)) throw input_error(folder.string(), "is not empty", "name a new folder, or empty this one");
}

// Sooner than after writing until the disk is full.
void check_space(const fs::path& folder, uint64_t needed) {
  fs::path existing = fs::absolute(folder);
  while (!fs::exists(existing) && existing.has_relative_path()) existing = existing.parent_path();
  std::error_code error;
  const fs::space_info space = fs::space(existing, error);
  if (error || space.available >= needed) return;
  throw run_error(
      folder.string(),
      fmt::format("{} are needed, the disk has {} left", format_bytes(needed), format_bytes(space.available)),
      "free space or name a folder on another disk");
}

std::unique_ptr<ModelLayout> layout_of(const HfConfig& config, const std::string& dtype) {
  if (!dtype.empty() && dtype != "bfloat16" && dtype != "float32") {
    throw input_error("--dtype", quote_text(dtype) + " is not a dtype that can be written", "bfloat16 or float32");
  }
  if (dtype.empty() && config.dtype() == DType::kF16) {
    throw input_error(config.where(), "its dtype is float16", "add --dtype bfloat16 or --dtype float32");
  }
  return make_layout(config, dtype.empty() ? "auto" : dtype);
}

}  // namespace

RandomCheckpoint write_random_checkpoint(const fs::path& config_json, const fs::path& folder,
                                         const RandomCheckpointOptions& options) {
  const HfConfig config = HfConfig::read(config_json);
  const auto layout = layout_of(config, options.dtype);
  check_folder(folder);
  const HfConfig text = config.has("text_config") ? config.object("text_config") : config;
  const double initializer_range = text.number("initializer_range", 0.02);
  if (!(initializer_range >= 0) || !std::isfinite(initializer_range)) {
    throw input_error(config.where(), "initializer_range must be 0 or more");
  }

  std::vector<NewTensor> tensors = checkpoint_tensors(*layout, config);
  RandomCheckpoint written;
  written.dtype = layout->shape().dtype == DType::kBF16 ? "bfloat16" : "float32";
  written.tensors = tensors.size();
  for (const NewTensor& tensor : tensors) {
    written.parameters += tensor.parameters;
    written.bytes += tensor.nbytes;
  }
  check_space(folder, written.bytes);

  const auto files = split_into_files(std::move(tensors), options.max_file_bytes);
  written.files = files.size();
  const int num_threads = static_cast<int>(default_thread_count(1));
  write_folder_atomic(folder, [&](const fs::path& temporary) {
    const RandomModel model{options.seed, static_cast<float>(initializer_range), layout->shape().num_experts};
    for (size_t i = 0; i < files.size(); ++i)
      write_file(temporary / file_name(i, files.size()), files[i], model, num_threads);
    if (files.size() > 1) {
      write_file_atomic(temporary / "model.safetensors.index.json", index_json(files, written.bytes));
    }
    write_file_atomic(temporary / "config.json", config_with_dtype(config_json, written.dtype));
  });
  return written;
}

}  // namespace moraine
