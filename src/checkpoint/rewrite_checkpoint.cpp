#include "checkpoint/rewrite_checkpoint.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/lfs_pointer.h"
#include "base/log.h"
#include "checkpoint/checkpoint_files.h"
#include "checkpoint/manifest.h"
#include "checkpoint/plain_tensors.h"
#include "formats/checkpoint_writer.h"
#include "models/output_head.h"
#include "nn/quantized_weight.h"
#include "tensor/quantize.h"
#include "tensor/torch_dtype.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

// What a new tensor is made of an old one.
enum class StoredPart { kPlain, kCodes, kScales };

struct ErrorSums {
  double difference = 0, value = 0;  // squares
  float largest_difference = 0, largest_value = 0;
};

struct OldTensor {
  PlainTensor plain;
  const ChangeRows* change = nullptr;
  StoredPart part = StoredPart::kPlain;
  // Of codes that change: what their errors come to.
  std::shared_ptr<ErrorSums> sums = nullptr;
};

// Sets libtorch's threads back to what the caller had.
struct CallersThreads {
  const int before = at::get_num_threads();
  ~CallersThreads() { at::set_num_threads(before); }
};

// Rows [first, first + count) of a stored tensor as they lie in the file.
at::Tensor read_rows(const CheckpointFiles& files, const CheckpointTensor& tensor, int64_t first, int64_t count,
                     c10::ScalarType dtype) {
  const SafetensorsEntry& entry = tensor.entry;
  const int64_t columns = stored_columns_of(entry.shape);
  const uint64_t row_bytes = static_cast<uint64_t>(columns) * dtype_bits(entry.dtype) / 8;
  at::Tensor rows = at::empty({count, columns}, at::TensorOptions().dtype(dtype));
  files.read({tensor.file, entry.offset + first * row_bytes, count * row_bytes, entry.dtype, entry.dtype},
             {static_cast<std::byte*>(rows.mutable_data_ptr()), count * row_bytes});
  return rows;
}

// Rows [first, first + count) of a quantised tensor's matrices, those of experts one after another.
FrozenWeight read_quantized_rows(const CheckpointFiles& files, const PlainTensor& plain, int64_t first, int64_t count) {
  const auto scale_dtype = torch_dtype(scale_dtype_of(plain.scales->entry.dtype));
  return {read_rows(files, *plain.values, first, count, torch_dtype(plain.format.codes)),
          read_rows(files, *plain.scales, first / plain.format.block_rows, plain.format.scale_rows(count), scale_dtype),
          plain.format};
}

// Elements [first, first + count) of a stored tensor in another dtype.
void read_elements(const CheckpointFiles& files, const CheckpointTensor& tensor, uint64_t first, uint64_t count,
                   DType dtype, void* into) {
  const SafetensorsEntry& entry = tensor.entry;
  const uint64_t size = dtype_bits(entry.dtype) / 8;
  files.read({tensor.file, entry.offset + first * size, count * size, entry.dtype, dtype},
             {static_cast<std::byte*>(into), count * dtype_bits(dtype) / 8});
}

void check_finite(const OldTensor& tensor, const at::Tensor& rows_RI) {
  if (at::isfinite(rows_RI).all().item<bool>()) return;
  throw run_error(tensor.plain.name, "is not finite after the change",
                  "the weights of the model or of the adapter are broken");
}

// Rows [first, first + rows) of a quantised tensor, fp32, with its changes; `scales` get those that it had.
at::Tensor changed_rows(const CheckpointFiles& files, const OldTensor& tensor, int64_t first, int64_t rows,
                        at::Tensor& scales) {
  const PlainTensor& plain = tensor.plain;
  const FrozenWeight weight = read_quantized_rows(files, plain, first, rows);
  scales = weight.scale;
  at::Tensor rows_RI = at::empty({rows, weight.in_features()}, at::kFloat);
  dequantize_into(rows_RI, weight);
  (*tensor.change)(first, rows_RI);
  check_finite(tensor, rows_RI);
  return rows_RI;
}

void add_errors(const OldTensor& tensor, const QuantizedRows& quantized, const at::Tensor& rows_RI) {
  static std::mutex mutex;
  const at::Tensor stored = at::empty_like(rows_RI);
  dequantize_into(stored, FrozenWeight(quantized.codes.view(torch_dtype(tensor.plain.format.codes)), quantized.scales,
                                       tensor.plain.format));
  const at::Tensor difference = stored.sub_(rows_RI);
  const double squares = difference.square().sum(at::kDouble).item<double>(),
               value_squares = rows_RI.square().sum(at::kDouble).item<double>();
  const float largest = difference.abs().max().item<float>(), largest_value = rows_RI.abs().max().item<float>();
  const std::lock_guard lock(mutex);
  tensor.sums->difference += squares;
  tensor.sums->value += value_squares;
  tensor.sums->largest_difference = std::max(tensor.sums->largest_difference, largest);
  tensor.sums->largest_value = std::max(tensor.sums->largest_value, largest_value);
}

// Rows of blocks of codes or of scales of a tensor that is quantised anew, a few at a time. Both are made of the same
// numbers in the same way, so they belong together.
void fill_requantized(const CheckpointFiles& files, const OldTensor& tensor, uint64_t first, uint64_t count,
                      std::byte* into) {
  constexpr int64_t kElements = int64_t{1} << 21;
  const PlainTensor& plain = tensor.plain;
  const QuantFormat& format = plain.format;
  const bool scales_asked = tensor.part == StoredPart::kScales;
  const int64_t all_rows = plain.matrix_rows(), columns = plain.matrix_columns();
  const int64_t stored_columns = scales_asked ? format.scale_columns(columns) : format.stored_columns(columns);
  const int64_t row_factor = scales_asked ? format.block_rows : 1;
  const int64_t first_row = static_cast<int64_t>(first) / stored_columns * row_factor;
  const int64_t end_row = std::min(all_rows, (static_cast<int64_t>(first + count) / stored_columns) * row_factor);
  const int64_t together = std::max<int64_t>(1, kElements / (columns * format.block_rows)) * format.block_rows;
  const DType scale_dtype = scale_dtype_of(plain.scales->entry.dtype);
  for (int64_t row = first_row; row < end_row; row += together) {
    const int64_t rows = std::min(together, end_row - row);
    at::Tensor old_scales;
    const at::Tensor rows_RI = changed_rows(files, tensor, row, rows, old_scales);
    const QuantizedRows quantized = quantize(format, scale_dtype, rows_RI, old_scales);
    if (scales_asked) {
      store_scales(quantized.scales, scale_dtype, into);
      into += quantized.scales.numel() * dtype_bits(scale_dtype) / 8;
    } else {
      add_errors(tensor, quantized, rows_RI);
      std::memcpy(into, quantized.codes.const_data_ptr(), quantized.codes.nbytes());
      into += quantized.codes.nbytes();
    }
  }
}

// Whole rows, or any elements of a tensor that is neither quantised nor changed.
void fill_elements(const CheckpointFiles& files, const OldTensor& tensor, uint64_t first, uint64_t count,
                   std::byte* into) {
  // Each of the writer's threads computes alone. Threads other than the caller's have no setting yet.
  at::set_num_threads(1);
  const at::NoGradGuard no_grad;
  const PlainTensor& plain = tensor.plain;
  if (tensor.part != StoredPart::kPlain) {
    if (tensor.change) return fill_requantized(files, tensor, first, count, into);
    const CheckpointTensor& stored = tensor.part == StoredPart::kCodes ? *plain.values : *plain.scales;
    return read_elements(files, stored, first, count, stored.entry.dtype, into);
  }
  if (!plain.scales && !tensor.change) return read_elements(files, *plain.values, first, count, plain.dtype, into);
  const int64_t first_row = static_cast<int64_t>(first) / plain.columns,
                rows = static_cast<int64_t>(count) / plain.columns;
  const at::Tensor out_RI = at::from_blob(into, {rows, plain.columns}, torch_dtype(plain.dtype));
  const bool in_place = !tensor.change || plain.dtype == DType::kF32;
  const at::Tensor rows_RI = in_place ? out_RI : at::empty({rows, plain.columns}, at::kFloat);
  if (plain.transposed) {
    // The writer cuts between experts.
    const int64_t in = plain.shape[1], out = plain.shape[2];
    for (int64_t row = 0; row < rows; row += in) {
      const FrozenWeight expert = read_quantized_rows(files, plain, (first_row + row) / in * out, out);
      rows_RI.narrow(0, row, in).copy_(dequantize(expert, rows_RI.scalar_type()).t());
    }
  } else if (plain.scales) {
    // The writer cuts between blocks; the last one may be short.
    dequantize_into(rows_RI, read_quantized_rows(files, plain, first_row, rows));
  } else {
    read_elements(files, *plain.values, first, count, DType::kF32, rows_RI.mutable_data_ptr());
  }
  if (!tensor.change) return;
  (*tensor.change)(first_row, rows_RI);
  if (!in_place) out_RI.copy_(rows_RI);
  check_finite(tensor, out_RI);
}

// Files of weights in other formats, of indices into them, and of hashes of what is no more.
bool is_left_behind(const std::string& name) {
  if (name.starts_with(".") || name == "config.json" || name == kManifestName || name.ends_with(".index.json"))
    return true;
  for (const char* suffix : {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"})
    if (name.ends_with(suffix)) return true;
  return false;
}

// Tokenizer, generation_config.json, chat templates, licence, relative to the folder.
std::vector<fs::path> files_to_copy(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const char* part : {"", "additional_chat_templates"}) {
    if (!fs::is_directory(folder / part)) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder / part)) {
      const fs::path name = entry.path().filename();
      if (entry.is_regular_file() && !is_left_behind(name)) files.push_back(part / name);
    }
  }
  return files;
}

std::string new_config(const fs::path& folder, const RewriteOptions& options, bool dequantized) {
  const fs::path path = folder / "config.json";
  if (!options.dtype && !dequantized) return read_text_file(path);
  const std::string dtype = options.dtype == DType::kF32 ? "float32" : "bfloat16";
  return config_text_with_dtype(path, dtype, {"quantization_config", "expert_dtype"});
}

}  // namespace

RewrittenCheckpoint rewrite_checkpoint(const OpenedCheckpoint& checkpoint, const fs::path& out,
                                       const RewriteOptions& options) {
  check_new_folder(out);
  const CheckpointIndex& index = checkpoint.headers.index;
  const fs::path& folder = index.folder;
  warn_of_stored_head(checkpoint.headers.config, checkpoint.specs[kRootImage]);

  NewCheckpoint rewritten{{}, options.max_file_bytes, options.num_threads};
  std::vector<OldTensor> old;
  RewrittenCheckpoint written;
  for (PlainTensor& plain : plain_tensors(index, checkpoint.specs, checkpoint.layout().quantization(), options.dtype)) {
    const auto change = options.changes.find(plain.values->entry.name);
    const ChangeRows* changes = change == options.changes.end() ? nullptr : &change->second;
    if (options.keep_format && plain.scales) {
      const SafetensorsEntry &values = plain.values->entry, &scales = plain.scales->entry;
      if (changes && scales.dtype == DType::kF16)
        throw input_error(plain.name, "has scales in F16, which are not written", "merge without --keep-format");
      const uint64_t code_unit = plain.format.block_rows * stored_columns_of(values.shape);
      rewritten.tensors.push_back({{values.name, values.dtype, values.shape}, std::max<uint64_t>(1, code_unit)});
      rewritten.tensors.push_back(
          {{scales.name, scales.dtype, scales.shape}, std::max<uint64_t>(1, scales.shape.back())});
      old.push_back({plain, changes, StoredPart::kCodes, changes ? std::make_shared<ErrorSums>() : nullptr});
      old.push_back({std::move(plain), changes, StoredPart::kScales});
      continue;
    }
    const uint64_t unit = plain.transposed ? plain.shape[1] * plain.columns
                          : plain.scales   ? plain.format.block_rows * plain.columns
                                           : plain.columns;
    rewritten.tensors.push_back({{plain.name, plain.dtype, plain.shape}, std::max<uint64_t>(1, unit)});
    if (plain.scales)
      ++written.dequantized;
    else if (plain.dtype != plain.values->entry.dtype)
      ++written.converted;
    old.push_back({std::move(plain), changes});
  }
  written.tensors = old.size();
  written.bytes = rewritten.total_bytes();

  const std::string config = new_config(folder, options, written.dequantized > 0);
  const std::vector<fs::path> copied = files_to_copy(folder);
  uint64_t other_bytes = config.size();
  for (const fs::path& file : copied) other_bytes += fs::file_size(folder / file);
  const CheckpointFiles files(index);
  const CallersThreads callers_threads;
  const auto fill = [&](size_t t, uint64_t first, uint64_t count, std::byte* into) {
    fill_elements(files, old[t], first, count, into);
  };
  written.files = write_checkpoint(out, rewritten, fill, other_bytes, [&](const fs::path& temporary) {
    write_file_atomic(temporary / "config.json", config);
    for (const fs::path& file : copied) {
      if (is_lfs_pointer(File(folder / file)))
        log_warning(
            (folder / file).string() +
            ": is a Git LFS pointer, not the file itself; it is copied as it is (`git lfs pull` brings the file)");
      fs::create_directories((temporary / file).parent_path());
      fs::copy_file(folder / file, temporary / file);
    }
  });
  for (const OldTensor& tensor : old) {
    if (!tensor.sums) continue;
    const ErrorSums& sums = *tensor.sums;
    written.requantized.push_back({tensor.plain.name,
                                   sums.largest_value > 0 ? sums.largest_difference / sums.largest_value : 0,
                                   sums.value > 0 ? std::sqrt(sums.difference / sums.value) : 0});
  }
  std::sort(written.requantized.begin(), written.requantized.end(),
            [](const QuantizationError& a, const QuantizationError& b) { return a.rms > b.rms; });
  return written;
}

}  // namespace moraine
