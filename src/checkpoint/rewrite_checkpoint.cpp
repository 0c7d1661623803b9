#include "checkpoint/rewrite_checkpoint.h"

#include <ATen/Parallel.h>

#include <algorithm>
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
#include "tensor/torch_dtype.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

struct OldTensor {
  PlainTensor plain;
  const ChangeRows* change = nullptr;
};

// Sets libtorch's threads back to what the caller had.
struct CallersThreads {
  const int before = at::get_num_threads();
  ~CallersThreads() { at::set_num_threads(before); }
};

// Rows [first, first + count) of a stored tensor as they lie in the file.
at::Tensor read_rows(const CheckpointFiles& files, const CheckpointTensor& tensor, int64_t first, int64_t count) {
  const SafetensorsEntry& entry = tensor.entry;
  const int64_t columns = entry.shape.back();
  const uint64_t row_bytes = static_cast<uint64_t>(columns) * dtype_bits(entry.dtype) / 8;
  at::Tensor rows = at::empty({count, columns}, at::TensorOptions().dtype(torch_dtype(entry.dtype)));
  files.read({tensor.file, entry.offset + first * row_bytes, count * row_bytes, entry.dtype, entry.dtype},
             {static_cast<std::byte*>(rows.mutable_data_ptr()), count * row_bytes});
  return rows;
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

// Whole rows, or any elements of a tensor that is neither quantised nor changed.
void fill_elements(const CheckpointFiles& files, const OldTensor& tensor, uint64_t first, uint64_t count,
                   std::byte* into) {
  // Each of the writer's threads computes alone. Threads other than the caller's have no setting yet.
  at::set_num_threads(1);
  const at::NoGradGuard no_grad;
  const PlainTensor& plain = tensor.plain;
  if (!plain.scales && !tensor.change) return read_elements(files, *plain.values, first, count, plain.dtype, into);
  const int64_t first_row = static_cast<int64_t>(first) / plain.columns,
                rows = static_cast<int64_t>(count) / plain.columns;
  const at::Tensor out_RI = at::from_blob(into, {rows, plain.columns}, torch_dtype(plain.dtype));
  const bool in_place = !tensor.change || plain.dtype == DType::kF32;
  const at::Tensor rows_RI = in_place ? out_RI : at::empty({rows, plain.columns}, at::kFloat);
  if (plain.scales) {
    // The writer cuts between blocks; the last one may be short.
    const FrozenWeight weight(
        read_rows(files, *plain.values, first_row, rows),
        read_rows(files, *plain.scales, first_row / plain.format.block_rows, plain.format.scale_rows(rows)),
        plain.format);
    dequantize_into(rows_RI, weight);
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
    const auto change = options.changes.find(plain.name);
    const uint64_t unit = plain.scales ? plain.format.block_rows * plain.columns : plain.columns;
    rewritten.tensors.push_back({{plain.name, plain.dtype, plain.shape}, std::max<uint64_t>(1, unit)});
    if (plain.scales)
      ++written.dequantized;
    else if (plain.dtype != plain.values->entry.dtype)
      ++written.converted;
    old.push_back({std::move(plain), change == options.changes.end() ? nullptr : &change->second});
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
  return written;
}

}  // namespace moraine
