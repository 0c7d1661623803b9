// Bytes of safetensors files, right and wrong.
#pragma once

#include <cstdint>
#include <string>

namespace moraine {

inline std::string length_bytes(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i));
  return bytes;
}

// A file with this header, a right length before it and `data_bytes` bytes after it.
inline std::string safetensors_file(const std::string& header, size_t data_bytes) {
  return length_bytes(header.size()) + header + std::string(data_bytes, 'd');
}

// "name":{…} of a header.
inline std::string header_entry(const std::string& name, const std::string& dtype, const std::string& shape,
                                uint64_t begin, uint64_t end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

}  // namespace moraine
