// read_tokens_file: ready token rows in a safetensors file.
#include <fmt/format.h>

#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "formats/safetensors.h"
#include "text/rows/dataset.h"

namespace moraine {
namespace {

// One [B,T] tensor of integers, read a row at a time.
class IntegerRows {
 public:
  IntegerRows(const File& file, const SafetensorsEntry& entry) : file_(file), entry_(entry) {
    if (entry.shape.size() != 2) {
      throw input_error(where(), fmt::format("has {} dims, not 2 (rows, columns)", entry.shape.size()));
    }
    if (dtype_bits(entry.dtype) < 8 || !is_integer(entry.dtype)) {
      throw input_error(where(), fmt::format("is of dtype {}", dtype_name(entry.dtype)), "tokens files hold I64");
    }
    element_bytes_ = static_cast<size_t>(dtype_bits(entry.dtype)) / 8;
    buffer_.resize(static_cast<size_t>(columns()) * element_bytes_);
  }

  int64_t rows() const { return entry_.shape[0]; }
  int64_t columns() const { return entry_.shape[1]; }
  std::string where() const { return file_.path().string() + ": " + entry_.name; }

  void read(int64_t row, std::vector<int64_t>& into) {
    file_.read_exact(buffer_, entry_.offset + static_cast<uint64_t>(row) * buffer_.size());
    into.resize(static_cast<size_t>(columns()));
    for (size_t i = 0; i < into.size(); ++i) into[i] = element(buffer_.data() + i * element_bytes_);
  }

 private:
  static bool is_integer(DType dtype) {
    return dtype == DType::kI64 || dtype == DType::kI32 || dtype == DType::kI8 || dtype == DType::kU8 ||
           dtype == DType::kBool;
  }

  template <typename T>
  static int64_t load(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return static_cast<int64_t>(value);
  }
  int64_t element(const std::byte* at) const {
    if (entry_.dtype == DType::kI64) return load<int64_t>(at);
    if (entry_.dtype == DType::kI32) return load<int32_t>(at);
    return entry_.dtype == DType::kI8 ? load<int8_t>(at) : load<uint8_t>(at);
  }

  const File& file_;
  const SafetensorsEntry& entry_;
  size_t element_bytes_ = 0;
  std::vector<std::byte> buffer_;
};

std::optional<IntegerRows> find_rows(const File& file, const SafetensorsHeader& header, const char* name) {
  const SafetensorsEntry* entry = header.find(name);
  if (entry == nullptr) return std::nullopt;
  return IntegerRows(file, *entry);
}

void check_shape(const std::optional<IntegerRows>& other, const IntegerRows& ids) {
  if (!other || (other->rows() == ids.rows() && other->columns() == ids.columns())) return;
  throw input_error(other->where(), fmt::format("is [{}, {}], but input_ids is [{}, {}]", other->rows(),
                                                other->columns(), ids.rows(), ids.columns()));
}

// Columns where the mask is 0 are left out. The label of a column behind such a gap would be predicted from padding, so
// it is not trained.
Sample sample_of_columns(const std::vector<int64_t>& ids, const std::vector<int64_t>& mask,
                         const std::vector<int64_t>& labels) {
  Sample sample;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (mask[i] == 0) continue;
    const bool behind_gap = i > 0 && mask[i - 1] == 0;
    sample.input_ids.push_back(ids[i]);
    sample.labels.push_back(behind_gap ? kNotTrained : labels[i]);
    sample.position_ids.push_back(static_cast<int64_t>(i));
  }
  return sample;
}

}  // namespace

void for_each_tokens_row(const std::string& path, int64_t vocab_size, TokensFile& shape,
                         const std::function<void(int64_t row, const std::function<Sample()>& read)>& use) {
  const SafetensorsHeader header = read_safetensors_header(path);
  const File file(path);
  std::optional<IntegerRows> ids = find_rows(file, header, "input_ids");
  if (!ids) throw input_error(path, "no tensor input_ids", "tokens files hold input_ids, attention_mask and labels");
  std::optional<IntegerRows> masks = find_rows(file, header, "attention_mask"),
                             labels = find_rows(file, header, "labels");
  check_shape(masks, *ids);
  check_shape(labels, *ids);
  if (header.find("position_ids") != nullptr) {
    throw input_error(path, "position_ids is not supported", "positions are the columns; write the file without it");
  }
  if (ids->rows() == 0 || ids->columns() == 0) throw input_error(ids->where(), "holds no tokens");

  shape.rows = ids->rows();
  shape.columns = ids->columns();
  std::vector<int64_t> id_row, mask_row(static_cast<size_t>(shape.columns), 1), label_row;
  const auto read_row = [&](int64_t row) {
    ids->read(row, id_row);
    if (masks) masks->read(row, mask_row);
    if (labels) labels->read(row, label_row);
    const std::vector<int64_t>& label_values = labels ? label_row : id_row;
    for (size_t i = 0; i < id_row.size(); ++i) {
      const auto fail = [&](const IntegerRows& tensor, int64_t value, const std::string& rule) {
        throw input_error(tensor.where(), fmt::format("row {}, column {} holds {}, {}", row, i, value, rule));
      };
      if (mask_row[i] != 0 && mask_row[i] != 1) fail(*masks, mask_row[i], "not 0 or 1");
      if (mask_row[i] == 0) continue;
      if (id_row[i] < 0 || id_row[i] >= vocab_size) {
        fail(*ids, id_row[i], fmt::format("outside the vocabulary of {}", vocab_size));
      }
      const int64_t label = label_values[i];
      if (label != kNotTrained && (label < 0 || label >= vocab_size)) {
        fail(*labels, label, fmt::format("neither -100 nor in the vocabulary of {}", vocab_size));
      }
    }
    return sample_of_columns(id_row, mask_row, label_values);
  };
  for (int64_t row = 0; row < shape.rows; ++row) use(row, [&] { return read_row(row); });
}

TokensFile read_tokens_file(const std::string& path, int64_t vocab_size) {
  TokensFile result;
  for_each_tokens_row(path, vocab_size, result,
                      [&](int64_t, const std::function<Sample()>& read) { result.samples.push_back(read()); });
  return result;
}

}  // namespace moraine
