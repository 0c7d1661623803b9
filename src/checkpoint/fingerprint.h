// Short names for long inputs, to tell whether two are the same: XXH3-128 as 32 hexadecimal digits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/file.h"

struct XXH3_state_s;

namespace moraine {

std::string hash_text(std::string_view text);

// Reads `nbytes` bytes of a file from `offset` on, a bounded piece at a time, which is valid until `take` returns.
void for_each_piece(const File& file, uint64_t offset, uint64_t nbytes,
                    const std::function<void(std::span<const std::byte>)>& take);

// Of `nbytes` bytes of a file from `offset` on.
std::string hash_range(const File& file, uint64_t offset, uint64_t nbytes);
inline std::string hash_file(const File& file) { return hash_range(file, 0, file.size()); }

// Of bytes that come piece by piece.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  void update(std::span<const std::byte> bytes);
  std::string digest() const;

  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;

 private:
  XXH3_state_s* state_;
};

}  // namespace moraine
