#include "checkpoint/distribute_by_memory.h"

#include <fmt/format.h>

#include <atomic>
#include <cstring>

#include "base/workers.h"
#include "checkpoint/shared_reads.h"

namespace moraine {
namespace {

constexpr Patience kWhileAlive = Patience::kWhileAlive;

// Reads that share a slot of the ring, or a read that only the reading rank itself needs.
struct SlotChunk {
  size_t first_read = 0, num_reads = 0;
  bool own = false;          // needs no slot
  uint64_t slot_number = 0;  // in the ring's order
  uint64_t nbytes = 0;
  std::vector<int64_t> receivers;  // group ranks, without the reader
};

void add_receivers(SlotChunk& chunk, const SharedRead& read) {
  for (const Target& target : read.targets) {
    if (target.member != 0 &&
        std::find(chunk.receivers.begin(), chunk.receivers.end(), target.member) == chunk.receivers.end())
      chunk.receivers.push_back(target.member);
  }
}

// The same on every rank.
std::vector<SlotChunk> make_slot_chunks(const std::vector<SharedRead>& reads) {
  std::vector<SlotChunk> chunks;
  uint64_t slots = 0;
  for (size_t i = 0; i < reads.size(); ++i) {
    const bool own = reads[i].targets.size() == 1 && reads[i].targets.front().member == 0;
    const uint64_t nbytes = reads[i].from.landed_nbytes();
    if (chunks.empty() || chunks.back().own || own || chunks.back().nbytes + nbytes > SharedRing::kSlotBytes) {
      chunks.push_back({i, 0, own, own ? 0 : slots++, 0, {}});
    }
    SlotChunk& chunk = chunks.back();
    ++chunk.num_reads;
    chunk.nbytes += nbytes;
    add_receivers(chunk, reads[i]);
  }
  return chunks;
}

void copy_to(const ShardSpans& shards, const Target& target, std::span<const std::byte> bytes) {
  std::memcpy(shards[target.image].data() + target.shard_offset, bytes.data(), bytes.size());
}

// Fills the slot, taking runs of the file at once.
void read_chunk(const SlotChunk& chunk, const std::vector<SharedRead>& reads, const CheckpointFiles& files,
                std::byte* into) {
  for (size_t i = chunk.first_read; i < chunk.first_read + chunk.num_reads;) {
    FileRange run = reads[i].from;
    uint64_t landed = run.landed_nbytes();
    size_t next = i + 1;
    for (; next < chunk.first_read + chunk.num_reads; ++next) {
      const FileRange& from = reads[next].from;
      if (run.converts() || from.converts() || from.file != run.file || from.offset != run.end()) break;
      run.nbytes += from.nbytes;
      landed += from.nbytes;
    }
    files.read(run, {into, landed});
    into += landed;
    i = next;
  }
}

// Copies what `member` gets of the chunk; returns how much that was.
uint64_t take_chunk(const SlotChunk& chunk, const std::vector<SharedRead>& reads, int64_t member, const std::byte* from,
                    const ShardSpans& shards) {
  uint64_t taken = 0;
  for (size_t i = chunk.first_read; i < chunk.first_read + chunk.num_reads; ++i) {
    const uint64_t nbytes = reads[i].from.landed_nbytes();
    for (const Target& target : reads[i].targets) {
      if (target.member != member) continue;
      copy_to(shards, target, {from, nbytes});
      taken += nbytes;
    }
    from += nbytes;
  }
  return taken;
}

}  // namespace

std::unique_ptr<SharedRing> share_ring(const Distribution& d) {
  const std::string key = "load/" + d.name + "/ring";
  std::unique_ptr<SharedRing> ring;
  bool all_mapped = true;
  if (d.group.rank() == 0) {
    try {
      ring = std::make_unique<SharedRing>();
    } catch (const Error&) {
      all_mapped = false;  // the others will find nothing at the address
    }
    d.control.put(key, ring ? ring->address() : "");
    for (int64_t rank = 1; rank < d.group.size(); ++rank)
      all_mapped &=
          d.control.wait_for(fmt::format("{}/{}", key, rank), "the ranks of this node", kWhileAlive) == "mapped";
    d.control.put(key + "/all", all_mapped ? "mapped" : "no");
  } else {
    ring = SharedRing::attach(d.control.wait_for(key, "the reading rank of this node", kWhileAlive));
    d.control.put(fmt::format("{}/{}", key, d.group.rank()), ring ? "mapped" : "no");
    all_mapped = d.control.wait_for(key + "/all", "the ranks of this node", kWhileAlive) == "mapped";
  }
  return all_mapped ? std::move(ring) : nullptr;
}

Distributed distribute_by_memory(const Distribution& d, SharedRing& ring, const ShardSpans& shards) {
  const std::vector<SharedRead> reads = merge_plans(d.plans, SharedRing::kSlotBytes);
  std::vector<SlotChunk> chunks = make_slot_chunks(reads);
  const int64_t self = d.group.rank();
  Distributed result{Transport::kSharedMemory, 0, 0};
  std::atomic<uint64_t> bytes{0};
  const auto each_chunk = [&](const auto& work) {
    for_each_item(chunks.size(), d.num_threads, [&](size_t i) {
      try {
        work(chunks[i]);
      } catch (...) {
        ring.abandon();
        throw;
      }
    });
  };
  if (self == 0) {
    each_chunk([&](const SlotChunk& chunk) {
      if (d.before_read) d.before_read();
      if (chunk.own) {
        const SharedRead& read = reads[chunk.first_read];
        const Target& target = read.targets.front();
        d.files->read(read.from, shards[target.image].subspan(target.shard_offset, read.from.landed_nbytes()));
      } else {
        ring.wait_until_free(chunk.slot_number);
        const auto slot = ring.bytes(chunk.slot_number);
        read_chunk(chunk, reads, *d.files, slot.data());
        take_chunk(chunk, reads, self, slot.data(), shards);
        ring.publish(chunk.slot_number, static_cast<int64_t>(chunk.receivers.size()));
      }
    });
    for (const SharedRead& read : reads) result.bytes_read += read.from.read_nbytes();
    return result;
  }
  std::erase_if(chunks, [&](const SlotChunk& chunk) {
    return std::find(chunk.receivers.begin(), chunk.receivers.end(), self) == chunk.receivers.end();
  });
  each_chunk([&](const SlotChunk& chunk) {
    ring.wait_until_filled(chunk.slot_number);
    bytes += take_chunk(chunk, reads, self, ring.bytes(chunk.slot_number).data(), shards);
    ring.taken(chunk.slot_number);
  });
  result.bytes_received = bytes;
  return result;
}

}  // namespace moraine
