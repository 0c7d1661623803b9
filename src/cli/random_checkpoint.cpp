#include "cli/random_checkpoint.h"

#include <c10/util/BFloat16.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
#include "base/random.h"
#include "base/text.h"
#include "base/workers.h"
#include "dist/launch.h"
#include "formats/safetensors.h"
#include "models/model_layout.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBufferBytes = 64 << 20;
constexpr uint64_t kPieceElements = 1 << 20;  // even: draws come in pairs

struct NewTensor {
  SafetensorsStream::Declared declared;
  uint64_t elements, nbytes;
};

// Elements [first, first + count) of a tensor on their way to disk.
struct Piece {
  const NewTensor* tensor;
  uint64_t first, count;
  uint64_t buffer_offset;
};

struct Filling {
  uint64_t seed;
  float initializer_range;
};

// Two independent standard normals from 64 random bits (Box and Muller 1958).
std::pair<float, float> normal_pair(uint64_t bits) {
  const float uniform = static_cast<float>((static_cast<double>(bits >> 32) + 1.0) * 0x1p-32);  // (0, 1]
  const float angle = static_cast<float>(static_cast<uint32_t>(bits)) * static_cast<float>(0x1p-31 * std::numbers::pi);
  const float radius = std::sqrt(-2.0f * std::log(uniform));
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

template <typename Element>
void fill_piece(const Piece& piece, const Filling& filling, Element* into) {
  const std::string& name = piece.tensor->declared.name;
  const bool is_vector = piece.tensor->declared.shape.size() == 1;
  if (is_vector && (name.ends_with("norm.weight") || name.ends_with(".bias"))) {
    std::fill_n(into, piece.count, static_cast<Element>(name.ends_with(".bias") ? 0.0f : 1.0f));
    return;
  }
  const CounterRandom random(filling.seed, name);
  for (uint64_t i = 0; i < piece.count; i += 2) {
    const auto [a, b] = normal_pair(random.bits((piece.first + i) / 2));
    into[i] = static_cast<Element>(a * filling.initializer_range);
    if (i + 1 < piece.count) into[i + 1] = static_cast<Element>(b * filling.initializer_range);
  }
}

void fill(const Piece& piece, const Filling& filling, std::byte* buffer) {
  std::byte* into = buffer + piece.buffer_offset;
  if (piece.tensor->declared.dtype == DType::kBF16) {
    fill_piece(piece, filling, reinterpret_cast<c10::BFloat16*>(into));
  } else {
    fill_piece(piece, filling, reinterpret_cast<float*>(into));
  }
}

// Makes the tensors of one file a buffer at a time, by all cores, and appends them.
void write_file(const fs::path& path, const std::vector<NewTensor>& tensors, const Filling& filling, int num_threads) {
  std::vector<SafetensorsStream::Declared> declared;
  for (const NewTensor& tensor : tensors) declared.push_back(tensor.declared);
  SafetensorsStream stream(path, declared, {{"format", "pt"}});
  std::vector<std::byte> buffer(kBufferBytes);
  std::vector<Piece> pieces;
  uint64_t used = 0;
  const auto flush = [&] {
    for_each_item(pieces.size(), num_threads, [&](size_t i) { fill(pieces[i], filling, buffer.data()); });
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
std::vector<NewTensor> checkpoint_tensors(const ModelLayout& layout, const std::string& where) {
  std::vector<NewTensor> tensors;
  for (const ImageSpec& image : image_specs(layout, no_checkpoint())) {
    for (const ParamSpec& param : image.params) {
      for (const SourceTensor& source : param.sources) {
        const auto nbytes = tensor_bytes(param.dtype, source.shape);
        if (!nbytes) throw input_error(where, "tensor " + source.name + " is too large");
        tensors.push_back({{source.name, param.dtype, source.shape}, *nbytes * 8 / dtype_bits(param.dtype), *nbytes});
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

// The config as it is, but with the dtype that was written, under whichever of its two names the config uses.
std::string config_with_dtype(const fs::path& config_json, const std::string& dtype) {
  OrderedJson config = parse_ordered_json(read_text_file(config_json), config_json.string());
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = dtype;
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
  const double initializer_range = config.number("initializer_range", 0.02);
  if (!(initializer_range >= 0) || !std::isfinite(initializer_range)) {
    throw input_error(config.where(), "initializer_range must be 0 or more");
  }

  std::vector<NewTensor> tensors = checkpoint_tensors(*layout, config.where());
  RandomCheckpoint written;
  written.dtype = layout->shape().dtype == DType::kBF16 ? "bfloat16" : "float32";
  written.tensors = tensors.size();
  for (const NewTensor& tensor : tensors) {
    written.parameters += tensor.elements;
    written.bytes += tensor.nbytes;
  }
  check_space(folder, written.bytes);

  const auto files = split_into_files(std::move(tensors), options.max_file_bytes);
  written.files = files.size();
  const int num_threads = static_cast<int>(default_thread_count(1));
  write_folder_atomic(folder, [&](const fs::path& temporary) {
    const Filling filling{options.seed, static_cast<float>(initializer_range)};
    for (size_t i = 0; i < files.size(); ++i)
      write_file(temporary / file_name(i, files.size()), files[i], filling, num_threads);
    if (files.size() > 1) {
      write_file_atomic(temporary / "model.safetensors.index.json", index_json(files, written.bytes));
    }
    write_file_atomic(temporary / "config.json", config_with_dtype(config_json, written.dtype));
  });
  return written;
}

}  // namespace moraine
