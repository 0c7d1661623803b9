#include "load/verify.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <unordered_set>

#include "base/error.h"
#include "base/workers.h"
#include "load/reader.h"

namespace moraine {
namespace {

// Ranges are compared in pieces of this size, so that a worker holds at most two of them.
constexpr uint64_t kPiece = uint64_t{8} << 20;

bool equal_hash(std::span<const std::byte> a, std::span<const std::byte> b) {
  return XXH128_isEqual(XXH3_128bits(a.data(), a.size()), XXH3_128bits(b.data(), b.size()));
}

std::vector<ReadRange> pieces_to_check(const LoadPlan& plan, Verify verify) {
  std::vector<ReadRange> pieces;
  std::unordered_set<std::string> sampled;
  for (const ReadRange& range : plan.reads) {
    if (verify == Verify::kPlacement && !sampled.insert(range.tensor).second) continue;
    const uint64_t stored = dtype_bits(range.stored) / 8, wanted = dtype_bits(range.wanted) / 8;
    for (uint64_t done = 0; done < range.file_nbytes; done += kPiece) {
      ReadRange piece = range;
      piece.file_offset += done;
      piece.file_nbytes = std::min(kPiece, range.file_nbytes - done);
      piece.shard_offset += done / stored * wanted;
      piece.shard_nbytes = piece.file_nbytes / stored * wanted;
      pieces.push_back(std::move(piece));
      if (verify == Verify::kPlacement) break;
    }
  }
  return pieces;
}

}  // namespace

uint64_t verify_shards(const LoadPlan& plan, const CheckpointIndex& index,
                       const std::vector<std::span<std::byte>>& shards, Verify verify, int num_threads) {
  const std::vector<ReadRange> pieces = pieces_to_check(plan, verify);
  std::atomic<uint64_t> bytes{0};
  for_each_item(pieces.size(), num_threads, [&](size_t i) {
    const ReadRange& piece = pieces[i];
    const std::vector<std::byte> expected = read_converted(piece, index);
    bytes += piece.file_nbytes;
    if (!equal_hash(expected, shards[piece.image].subspan(piece.shard_offset, piece.shard_nbytes))) {
      throw run_error(index.files[piece.file].path.string(), "tensor " + piece.tensor + " in memory differs from the file",
                      "the file changed while it was read, or memory is faulty; run again");
    }
  });
  return bytes;
}

}  // namespace moraine
