#include "formats/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
#include "base/json_events.h"
#include "base/lfs_pointer.h"
#include "base/text.h"

namespace moraine {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference reader's limit
constexpr const char* kMetadataKey = "__metadata__";

// Checks the length in the first 8 bytes against the limits and returns it.
uint64_t header_length(std::span<const std::byte> bytes, uint64_t file_size, const std::string& where) {
  if (file_size < kLengthBytes || bytes.size() < kLengthBytes) {
    throw input_error(where, fmt::format("{} bytes are too few for a safetensors file", file_size),
                      "the file is empty or cut short");
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | std::to_integer<uint64_t>(bytes[static_cast<size_t>(i)]);
  if (length > kMaxHeaderBytes) {
    throw input_error(where, fmt::format("the header claims {} bytes, more than the limit of 100 MB", length),
                      "not a safetensors file, or damaged");
  }
  if (length > file_size - kLengthBytes) {
    throw input_error(where,
                      fmt::format("the header claims {} bytes, but the file has {} bytes in all", length, file_size),
                      "the file is cut short or damaged");
  }
  return length;
}

// A count in the header: a whole number that fits int64.
int64_t parse_count(const Json& value, const std::string& where, const std::string& tensor, const char* key) {
  if (value.is_number_unsigned()) {
    uint64_t count = value.get<uint64_t>();
    if (count <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return static_cast<int64_t>(count);
    throw input_error(where, fmt::format("tensor {}: {} holds {}, which is too large", tensor, key, count));
  }
  if (value.is_number_integer()) {
    throw input_error(where, fmt::format("tensor {}: {} holds a negative number", tensor, key));
  }
  throw input_error(where,
                    fmt::format("tensor {}: {} must hold whole numbers, not {}", tensor, key, value.type_name()));
}

// Reads the header's text as it comes, so that a hostile one takes no more memory than what it says: the offsets of
// `entries` still count from the first tensor byte, and names may be given twice.
class HeaderReader : public JsonEvents {
 public:
  explicit HeaderReader(SafetensorsHeader& header) : header_(header) {}

 protected:
  void on_key(std::string& name) override {
    if (skipped_depth_ > 0) return;
    if (place_ == Place::kHeader) {
      if (name == kMetadataKey) {
        if (std::exchange(saw_metadata_, true)) fail_twice(name);
        field_ = Field::kMetadata;
      } else {
        entry_ = Entry{};
        entry_.result.name = std::move(name);
        field_ = Field::kEntry;
      }
    } else if (place_ == Place::kMetadata) {
      if (header_.metadata.size() == kMaxMetadata)
        throw input_error(where(), fmt::format("__metadata__ has more than {} entries", kMaxMetadata),
                          "not what a checkpoint has");
      const auto [value, inserted] = header_.metadata.try_emplace(std::move(name));
      if (!inserted) fail_twice(value->first);
      metadata_ = &*value;
    } else {
      field_ = name == "dtype"          ? Field::kDtype
               : name == "shape"        ? Field::kShape
               : name == "data_offsets" ? Field::kOffsets
                                        : Field::kOther;
      if (std::find(entry_.keys.begin(), entry_.keys.end(), name) != entry_.keys.end()) fail_twice(name);
      if (entry_.keys.size() == kMaxKeys) fail_tensor(fmt::format("has more than {} keys", kMaxKeys));
      entry_.keys.push_back(std::move(name));
    }
  }

  void on_begin(bool is_object) override {
    if (skipped_depth_ > 0) {
      ++skipped_depth_;
    } else if (place_ == Place::kStart) {
      place_ = Place::kHeader;
    } else if (place_ == Place::kHeader && is_object) {
      place_ = field_ == Field::kMetadata ? Place::kMetadata : Place::kEntry;
    } else if (place_ == Place::kEntry && field_ == Field::kOther) {
      skipped_depth_ = 1;
    } else if (place_ == Place::kEntry && !is_object && field_ != Field::kDtype) {
      place_ = field_ == Field::kShape ? Place::kShape : Place::kOffsets;
    } else {
      refuse(is_object ? "object" : "array");
    }
  }

  void on_end() override {
    if (skipped_depth_ > 0) {
      --skipped_depth_;
    } else if (place_ == Place::kEntry) {
      finish_entry();
      place_ = Place::kHeader;
    } else {
      place_ = place_ == Place::kMetadata || place_ == Place::kHeader ? Place::kHeader : Place::kEntry;
    }
  }

  void on_text(std::string& value) override {
    if (skipped_depth_ > 0) return;
    if (place_ == Place::kMetadata) {
      metadata_->second = std::move(value);
    } else if (place_ == Place::kEntry && field_ == Field::kDtype) {
      entry_.dtype = parse_dtype(value);
      if (!entry_.dtype) fail_tensor(fmt::format("unknown dtype {}", quote_text(value)));
    } else if (place_ != Place::kEntry || field_ != Field::kOther) {
      refuse("string");
    }
  }

  void on_scalar(const Json& value) override {
    if (skipped_depth_ > 0 || (place_ == Place::kEntry && field_ == Field::kOther)) return;
    if (place_ == Place::kHeader && field_ == Field::kMetadata && value.is_null()) return;  // as the reference reader
    if (place_ == Place::kShape) {
      if (entry_.result.shape.size() == kMaxDims)
        fail_tensor(fmt::format("shape has more than {} dimensions", kMaxDims));
      entry_.result.shape.push_back(parse_count(value, where(), tensor(), "shape"));
    } else if (place_ == Place::kOffsets) {
      if (entry_.offsets.size() == 2) fail_offsets();
      entry_.offsets.push_back(parse_count(value, where(), tensor(), "data_offsets"));
    } else {
      refuse(value.type_name());
    }
  }

 private:
  static constexpr size_t kMaxDims = 64;  // torch's limit too
  static constexpr size_t kMaxKeys = 64, kMaxMetadata = 100'000;

  enum class Place { kStart, kHeader, kMetadata, kEntry, kShape, kOffsets };
  enum class Field { kMetadata, kEntry, kDtype, kShape, kOffsets, kOther };
  struct Entry {
    SafetensorsEntry result{"", DType::kF32, {}, 0, 0};
    std::optional<DType> dtype;
    std::vector<int64_t> offsets;
    std::vector<std::string> keys;
  };

  std::string tensor() const { return quote_text(entry_.result.name); }
  [[noreturn]] void fail_twice(const std::string& key) const {
    throw input_error(where(), fmt::format("key {} is given twice", quote_text(key)));
  }
  [[noreturn]] void fail_tensor(const std::string& what) const {
    throw input_error(where(), fmt::format("tensor {}: {}", tensor(), what));
  }
  [[noreturn]] void fail_offsets() const { fail_tensor("data_offsets must be a list of two numbers"); }
  // A value of a type that its place does not take.
  [[noreturn]] void refuse(const char* type) const {
    if (place_ == Place::kShape || place_ == Place::kOffsets)
      fail_tensor(
          fmt::format("{} must hold whole numbers, not {}", place_ == Place::kShape ? "shape" : "data_offsets", type));
    if (place_ == Place::kMetadata)
      throw input_error(where(),
                        fmt::format("__metadata__ {}: the value must be a string", quote_text(metadata_->first)));
    if (place_ == Place::kHeader && field_ == Field::kMetadata)
      throw input_error(where(), "__metadata__ is not a JSON object");
    if (place_ == Place::kHeader) fail_tensor("not a JSON object");
    if (field_ == Field::kDtype) fail_tensor("dtype must be a string");
    if (field_ == Field::kShape) fail_tensor("shape must be a list");
    fail_offsets();
  }
  bool has(const char* key) const {
    return std::find(entry_.keys.begin(), entry_.keys.end(), key) != entry_.keys.end();
  }

  void finish_entry() {
    for (const char* key : {"dtype", "shape", "data_offsets"})
      if (!has(key)) fail_tensor(fmt::format("{} is missing", key));
    if (entry_.offsets.size() != 2) fail_offsets();
    SafetensorsEntry& entry = entry_.result;
    entry.dtype = *entry_.dtype;
    const auto begin = static_cast<uint64_t>(entry_.offsets[0]), end = static_cast<uint64_t>(entry_.offsets[1]);
    if (begin > end) fail_tensor(fmt::format("data_offsets [{}, {}] end before they begin", begin, end));
    const auto shape = [&] {
      return fmt::format("shape [{}] of {}", fmt::join(entry.shape, ", "), dtype_name(entry.dtype));
    };
    const std::optional<uint64_t> nbytes = tensor_bytes(entry.dtype, entry.shape);
    if (!nbytes) fail_tensor(shape() + " overflows or is no whole number of bytes");
    if (*nbytes != end - begin)
      fail_tensor(fmt::format("{} takes {} bytes, but data_offsets [{}, {}] hold {}", shape(), *nbytes, begin, end,
                              end - begin));
    entry.offset = begin;
    entry.nbytes = *nbytes;
    entry.shape.shrink_to_fit();
    header_.entries.push_back(std::move(entry));
  }

  SafetensorsHeader& header_;
  Place place_ = Place::kStart;
  Field field_ = Field::kOther;
  Entry entry_;  // the one that is being read
  std::pair<const std::string, std::string>* metadata_ = nullptr;
  bool saw_metadata_ = false;
  size_t skipped_depth_ = 0;  // within the value of a key that means nothing here
};

void check_names_differ(const std::vector<SafetensorsEntry>& entries, const std::string& where) {
  std::vector<const std::string*> names;
  names.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) names.push_back(&entry.name);
  std::sort(names.begin(), names.end(), [](const std::string* a, const std::string* b) { return *a < *b; });
  const auto twice = std::adjacent_find(names.begin(), names.end(),
                                        [](const std::string* a, const std::string* b) { return *a == *b; });
  if (twice != names.end()) throw input_error(where, fmt::format("key {} is given twice", quote_text(**twice)));
}

// Sorts by offset and checks that the tensors tile the file's data: no overlap, no hole, nothing before or after.
void check_tiling(std::vector<SafetensorsEntry>& entries, uint64_t data_bytes, const std::string& where) {
  // Equal offsets are those of empty tensors, which come before the tensor that begins there.
  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.offset, a.nbytes, a.name) < std::tie(b.offset, b.nbytes, b.name);
  });
  uint64_t expected = 0;
  const SafetensorsEntry* previous = nullptr;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.offset < expected) {
      throw input_error(
          where, fmt::format("tensor {} overlaps tensor {}", quote_text(entry.name), quote_text(previous->name)));
    }
    if (entry.offset > expected) {
      throw input_error(
          where, fmt::format("a hole of {} bytes before tensor {}", entry.offset - expected, quote_text(entry.name)));
    }
    expected = entry.offset + entry.nbytes;  // both come from int64 offsets
    previous = &entry;
    if (expected > data_bytes) {
      throw input_error(where,
                        fmt::format("tensor {} ends at byte {} of the data, but the file holds {}",
                                    quote_text(entry.name), expected, data_bytes),
                        "the file is cut short");
    }
  }
  if (expected != data_bytes) {
    throw input_error(where, fmt::format("{} bytes follow the last tensor", data_bytes - expected),
                      "the file is damaged or not what its header says");
  }
}

}  // namespace

std::optional<uint64_t> tensor_bytes(DType dtype, std::span<const int64_t> shape) {
  std::optional<uint64_t> count = 1;
  bool empty = false;
  for (int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    if (dim == 0) {
      empty = true;
    } else {
      count = checked_mul(*count, static_cast<uint64_t>(dim));
    }
    if (!count) return std::nullopt;
  }
  std::optional<uint64_t> bits = checked_mul(*count, static_cast<uint64_t>(dtype_bits(dtype)));
  if (!bits) return std::nullopt;
  if (empty) return 0;
  if (*bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

const SafetensorsEntry* SafetensorsHeader::find(std::string_view name) const {
  for (const SafetensorsEntry& entry : entries) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes, uint64_t file_size,
                                           const std::filesystem::path& path) {
  const std::string where = path.string();
  uint64_t length = header_length(bytes, file_size, where);
  if (bytes.size() < kLengthBytes + length) throw input_error(where, "the header is cut short");
  std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (!text.starts_with('{')) {
    throw input_error(where, "the header does not begin with '{'", "not a safetensors file, or damaged");
  }
  SafetensorsHeader header;
  header.path = path;
  header.file_size = file_size;
  header.data_offset = kLengthBytes + length;
  HeaderReader(header).read(text, where);
  check_names_differ(header.entries, where);
  check_tiling(header.entries, file_size - header.data_offset, where);
  for (SafetensorsEntry& entry : header.entries) entry.offset += header.data_offset;
  return header;
}

SafetensorsHeader read_safetensors_header(const std::filesystem::path& path) {
  File file(path);
  refuse_lfs_pointer(file);
  std::vector<std::byte> bytes(std::min(kLengthBytes, file.size()));
  file.read_exact(bytes, 0);
  uint64_t length = header_length(bytes, file.size(), path.string());
  bytes.resize(kLengthBytes + length);
  file.read_exact(std::span(bytes).subspan(kLengthBytes), kLengthBytes);
  return parse_safetensors_header(bytes, file.size(), path);
}

SafetensorsStream::SafetensorsStream(std::filesystem::path path, const std::vector<Declared>& tensors,
                                     const std::map<std::string, std::string>& metadata) {
  // Built by hand: the order of keys is the declared one, and a JSON object's look-ups are not needed.
  std::string json = "{";
  if (!metadata.empty()) json += fmt::format("\"{}\":{}", kMetadataKey, Json(metadata).dump());
  std::unordered_set<std::string_view> names;
  for (const Declared& tensor : tensors) {
    MORAINE_ASSERT(tensor.name != kMetadataKey && names.insert(tensor.name).second, "tensor name given twice");
    std::optional<uint64_t> nbytes = tensor_bytes(tensor.dtype, tensor.shape);
    MORAINE_ASSERT(nbytes, "shape of tensor " + tensor.name);
    json += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", json.size() > 1 ? "," : "",
                        Json(tensor.name).dump(), dtype_name(tensor.dtype), fmt::join(tensor.shape, ","), remaining_,
                        remaining_ + *nbytes);
    remaining_ += *nbytes;
  }
  json += "}";
  json.resize(round_up(json.size(), 8), ' ');  // the data begins at a multiple of 8
  if (json.size() > kMaxHeaderBytes) {
    throw run_error(path.string(), "too many tensors: the header would be longer than 100 MB, the limit of the format");
  }
  std::byte length[kLengthBytes];
  for (size_t i = 0; i < kLengthBytes; ++i) length[i] = static_cast<std::byte>(json.size() >> (8 * i));
  file_ = std::make_unique<AtomicFile>(std::move(path));
  file_->append(length);
  file_->append(std::as_bytes(std::span(json)));
}

void SafetensorsStream::append(std::span<const std::byte> bytes) {
  MORAINE_ASSERT(bytes.size() <= remaining_, "more bytes than the declared tensors take");
  file_->append(bytes);
  remaining_ -= bytes.size();
}

void SafetensorsStream::finish() {
  MORAINE_ASSERT(remaining_ == 0, "fewer bytes than the declared tensors take");
  file_->commit();
}

void write_safetensors(const std::filesystem::path& path, std::vector<SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  std::vector<SafetensorsStream::Declared> declared;
  for (const SafetensorsTensor& tensor : tensors) {
    MORAINE_ASSERT(tensor_bytes(tensor.dtype, tensor.shape) == tensor.bytes.size(), "bytes of tensor " + tensor.name);
    declared.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  SafetensorsStream stream(path, declared, metadata);
  for (const SafetensorsTensor& tensor : tensors) stream.append(tensor.bytes);
  stream.finish();
}

}  // namespace moraine
