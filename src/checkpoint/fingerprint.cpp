#include "checkpoint/fingerprint.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <vector>

namespace moraine {
namespace {

std::string digits(XXH128_hash_t hash) { return fmt::format("{:016x}{:016x}", hash.high64, hash.low64); }

}  // namespace

std::string hash_text(std::string_view text) { return digits(XXH3_128bits(text.data(), text.size())); }

Hasher::Hasher() : state_(XXH3_createState()) { XXH3_128bits_reset(state_); }
Hasher::~Hasher() { XXH3_freeState(state_); }
void Hasher::update(std::span<const std::byte> bytes) { XXH3_128bits_update(state_, bytes.data(), bytes.size()); }
std::string Hasher::digest() const { return digits(XXH3_128bits_digest(state_)); }

void for_each_piece(const File& file, uint64_t offset, uint64_t nbytes,
                    const std::function<void(std::span<const std::byte>)>& take) {
  constexpr uint64_t kPiece = uint64_t{1} << 20;  // that stays in the cache
  thread_local std::vector<std::byte> buffer(kPiece);
  for (uint64_t done = 0; done < nbytes; done += kPiece) {
    const std::span<std::byte> piece(buffer.data(), std::min(kPiece, nbytes - done));
    file.read_exact(piece, offset + done);
    take(piece);
  }
}

std::string hash_range(const File& file, uint64_t offset, uint64_t nbytes) {
  Hasher hasher;
  for_each_piece(file, offset, nbytes, [&](std::span<const std::byte> piece) { hasher.update(piece); });
  return hasher.digest();
}

}  // namespace moraine
