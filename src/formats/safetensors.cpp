#include "formats/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>
#include <unordered_set>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
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

const Json& require_field(const Json& object, const char* key, const std::string& where, const std::string& tensor) {
  auto found = object.find(key);
  if (found == object.end()) throw input_error(where, fmt::format("tensor {}: {} is missing", tensor, key));
  return *found;
}

// One tensor's part of the header; its offset still counts from the first tensor byte.
SafetensorsEntry parse_entry(const std::string& name, const Json& value, const std::string& where) {
  std::string tensor = quote_text(name);
  if (!value.is_object()) throw input_error(where, fmt::format("tensor {}: not a JSON object", tensor));
  const Json& dtype = require_field(value, "dtype", where, tensor);
  const Json& shape = require_field(value, "shape", where, tensor);
  const Json& offsets = require_field(value, "data_offsets", where, tensor);

  if (!dtype.is_string()) throw input_error(where, fmt::format("tensor {}: dtype must be a string", tensor));
  const std::string& dtype_text = dtype.get_ref<const std::string&>();
  std::optional<DType> parsed = parse_dtype(dtype_text);
  if (!parsed) throw input_error(where, fmt::format("tensor {}: unknown dtype {}", tensor, quote_text(dtype_text)));

  SafetensorsEntry entry{name, *parsed, {}, 0, 0};
  if (!shape.is_array()) throw input_error(where, fmt::format("tensor {}: shape must be a list", tensor));
  for (const Json& dim : shape) entry.shape.push_back(parse_count(dim, where, tensor, "shape"));
  if (!offsets.is_array() || offsets.size() != 2) {
    throw input_error(where, fmt::format("tensor {}: data_offsets must be a list of two numbers", tensor));
  }
  uint64_t begin = static_cast<uint64_t>(parse_count(offsets[0], where, tensor, "data_offsets"));
  uint64_t end = static_cast<uint64_t>(parse_count(offsets[1], where, tensor, "data_offsets"));
  if (begin > end) {
    throw input_error(where, fmt::format("tensor {}: data_offsets [{}, {}] end before they begin", tensor, begin, end));
  }
  std::optional<uint64_t> nbytes = tensor_bytes(entry.dtype, entry.shape);
  if (!nbytes) {
    throw input_error(where, fmt::format("tensor {}: shape [{}] of {} overflows or is no whole number of bytes", tensor,
                                         fmt::join(entry.shape, ", "), dtype_text));
  }
  if (*nbytes != end - begin) {
    throw input_error(
        where, fmt::format("tensor {}: shape [{}] of {} takes {} bytes, but data_offsets [{}, {}] hold {}", tensor,
                           fmt::join(entry.shape, ", "), dtype_text, *nbytes, begin, end, end - begin));
  }
  entry.offset = begin;
  entry.nbytes = *nbytes;
  return entry;
}

std::map<std::string, std::string> parse_metadata(const Json& value, const std::string& where) {
  std::map<std::string, std::string> metadata;
  if (value.is_null()) return metadata;  // as the reference reader
  if (!value.is_object()) throw input_error(where, "__metadata__ is not a JSON object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      throw input_error(where, fmt::format("__metadata__ {}: the value must be a string", quote_text(key)));
    metadata[key] = text.get<std::string>();
  }
  return metadata;
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
  const Json json = parse_json(text, where);

  SafetensorsHeader header;
  header.path = path;
  header.file_size = file_size;
  header.data_offset = kLengthBytes + length;
  for (const auto& [name, value] : json.items()) {
    if (name == kMetadataKey) {
      header.metadata = parse_metadata(value, where);
    } else {
      header.entries.push_back(parse_entry(name, value, where));
    }
  }
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
