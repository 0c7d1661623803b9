#include "checkpoint/distribute_by_messages.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <future>
#include <numeric>

#include "base/workers.h"
#include "checkpoint/shared_reads.h"

namespace moraine {
namespace {

// What travels at a time. The reader holds two chunks, so that it reads one while the other is on its way.
constexpr uint64_t kChunkBytes = uint64_t{32} << 20, kReadBytes = uint64_t{4} << 20;

// A run of reads, and where each of them lies in the payload that is sent: first all that goes to group rank 1, then to
// rank 2 and so on; a read with several targets lies there several times.
struct Chunk {
  size_t first_read = 0, num_reads = 0;
  std::vector<int64_t> bytes_of_member;  // payload by group rank; the reader's own is 0
  int64_t payload_bytes() const { return std::accumulate(bytes_of_member.begin(), bytes_of_member.end(), int64_t{0}); }
};

// The same on every rank.
std::vector<Chunk> make_chunks(const std::vector<SharedRead>& reads, int64_t members) {
  std::vector<Chunk> chunks;
  uint64_t payload = 0;
  for (size_t i = 0; i < reads.size(); ++i) {
    const uint64_t nbytes = reads[i].from.landed_nbytes();
    uint64_t sent = 0;
    for (const Target& target : reads[i].targets) sent += target.member == 0 ? 0 : nbytes;
    // Reads of the reader's own count too: otherwise the others would wait long for a chunk.
    if (chunks.empty() || payload + std::max(sent, nbytes) > kChunkBytes) {
      chunks.push_back({i, 0, std::vector<int64_t>(members, 0)});
      payload = 0;
    }
    payload += std::max(sent, nbytes);
    ++chunks.back().num_reads;
    for (const Target& target : reads[i].targets)
      if (target.member != 0) chunks.back().bytes_of_member[target.member] += static_cast<int64_t>(nbytes);
  }
  return chunks;
}

// Where each target of each read of the chunk lies in the payload.
std::vector<std::vector<uint64_t>> payload_offsets(const Chunk& chunk, const std::vector<SharedRead>& reads) {
  std::vector<uint64_t> next(chunk.bytes_of_member.size(), 0);
  for (size_t m = 1; m < next.size(); ++m) next[m] = next[m - 1] + chunk.bytes_of_member[m - 1];
  std::vector<std::vector<uint64_t>> offsets(chunk.num_reads);
  for (size_t i = 0; i < chunk.num_reads; ++i) {
    const SharedRead& read = reads[chunk.first_read + i];
    for (const Target& target : read.targets) {
      offsets[i].push_back(next[target.member]);
      if (target.member != 0) next[target.member] += read.from.landed_nbytes();
    }
  }
  return offsets;
}

void fill_payload(const Distribution& d, const Chunk& chunk, const std::vector<SharedRead>& reads, std::byte* payload,
                  const ShardSpans& shards) {
  const auto offsets = payload_offsets(chunk, reads);
  for_each_item(chunk.num_reads, d.num_threads, [&](size_t i) {
    if (d.before_read) d.before_read();
    const SharedRead& read = reads[chunk.first_read + i];
    const uint64_t nbytes = read.from.landed_nbytes();
    auto place = [&](size_t t) {
      const Target& target = read.targets[t];
      return target.member == 0 ? shards[target.image].data() + target.shard_offset : payload + offsets[i][t];
    };
    d.files->read(read.from, {place(0), nbytes});
    for (size_t t = 1; t < read.targets.size(); ++t) std::memcpy(place(t), place(0), nbytes);
  });
}

void unpack(const Chunk& chunk, const std::vector<SharedRead>& reads, int64_t member, const std::byte* from,
            const ShardSpans& shards) {
  for (size_t i = chunk.first_read; i < chunk.first_read + chunk.num_reads; ++i) {
    for (const Target& target : reads[i].targets) {
      if (target.member != member) continue;
      const uint64_t nbytes = reads[i].from.landed_nbytes();
      std::memcpy(shards[target.image].data() + target.shard_offset, from, nbytes);
      from += nbytes;
    }
  }
}

at::Tensor byte_buffer(int64_t nbytes) { return at::empty({nbytes}, at::TensorOptions().dtype(at::kByte)); }

// A chunk on its way; all ranks of the group (collective), or those that get something of it (p2p).
void exchange(const Distribution& d, Transport transport, const Chunk& chunk, const at::Tensor& payload) {
  const int64_t members = d.group.size(), self = d.group.rank();
  if (transport == Transport::kCollective) {
    std::vector<int64_t> sent(members, 0), received(members, 0);
    if (self == 0) {
      sent = chunk.bytes_of_member;
      d.group.all_to_all_single(byte_buffer(0), payload, received, sent);
    } else {
      received[0] = chunk.bytes_of_member[self];
      d.group.all_to_all_single(payload, byte_buffer(0), received, sent);
    }
    return;
  }
  if (self != 0) {
    if (chunk.bytes_of_member[self] > 0) d.group.recv(payload, 0);
    return;
  }
  std::vector<Work> sends;
  for (int64_t member = 1, offset = 0; member < members; offset += chunk.bytes_of_member[member++]) {
    const int64_t nbytes = chunk.bytes_of_member[member];
    if (nbytes > 0) sends.push_back(d.group.send_async(payload.narrow(0, offset, nbytes), member));
  }
  for (Work& send : sends) send.wait();
}

}  // namespace

Distributed distribute_by_messages(const Distribution& d, Transport transport, const ShardSpans& shards) {
  const std::vector<SharedRead> reads = merge_plans(d.plans, kReadBytes);
  const std::vector<Chunk> chunks = make_chunks(reads, d.group.size());
  const int64_t self = d.group.rank();
  Distributed result{transport, 0, 0};
  const auto key = [&](size_t chunk) { return fmt::format("load/{}/chunk/{}", d.name, chunk); };
  int64_t largest = 0;
  for (const Chunk& chunk : chunks)
    largest = std::max(largest, self == 0 ? chunk.payload_bytes() : chunk.bytes_of_member[self]);

  if (self != 0) {
    const at::Tensor buffer = byte_buffer(largest);
    for (size_t i = 0; i < chunks.size(); ++i) {
      const int64_t nbytes = chunks[i].bytes_of_member[self];
      if (transport == Transport::kPointToPoint && nbytes == 0) continue;
      // Only when the chunk is read: the reader may take long, and then nobody may sit in a collective.
      d.control.wait_for(key(i), "weights from the reading rank", Patience::kWhileAlive);
      const at::Tensor payload = buffer.narrow(0, 0, nbytes);
      exchange(d, transport, chunks[i], payload);
      unpack(chunks[i], reads, self, static_cast<const std::byte*>(payload.const_data_ptr()), shards);
      result.bytes_received += static_cast<uint64_t>(nbytes);
    }
    return result;
  }
  const std::array<at::Tensor, 2> buffers{byte_buffer(largest), byte_buffer(largest)};
  const auto fill = [&](size_t i) {
    fill_payload(d, chunks[i], reads, static_cast<std::byte*>(buffers[i % 2].mutable_data_ptr()), shards);
  };
  std::future<void> filled;
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (i == 0)
      fill(0);
    else
      filled.get();
    if (i + 1 < chunks.size()) filled = std::async(std::launch::async, fill, i + 1);
    d.control.put(key(i), "read");
    exchange(d, transport, chunks[i], buffers[i % 2].narrow(0, 0, chunks[i].payload_bytes()));
  }
  for (const SharedRead& read : reads) result.bytes_read += read.from.read_nbytes();
  return result;
}

}  // namespace moraine
