#include "checkpoint/verify.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "base/workers.h"
#include "checkpoint/shared_reads.h"

namespace moraine {
namespace {

// Hashes are taken of pieces of this size, so that a worker holds at most one of them.
constexpr uint64_t kPiece = uint64_t{8} << 20;
constexpr uint64_t kSample = uint64_t{64} << 10;  // of a tensor, under kPlacement

// What a rank says it holds. The hashes are those of its pieces, in the order of merge_plans.
struct Claim {
  ExpertRange experts;
  std::vector<ByteRange> shards;
  std::vector<XXH128_hash_t> hashes;
};

template <typename T>
void append(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
T take(std::string_view& bytes) {
  MORAINE_ASSERT(bytes.size() >= sizeof(T), "a claim is whole");
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes.remove_prefix(sizeof value);
  return value;
}

template <typename T>
std::vector<T> take_all(std::string_view& bytes) {
  const size_t count = take<size_t>(bytes);
  MORAINE_ASSERT(count <= bytes.size() / sizeof(T), "a claim is whole");
  std::vector<T> values(count);
  for (T& value : values) value = take<T>(bytes);
  return values;
}

std::string to_bytes(const Claim& claim) {
  std::string bytes;
  append(bytes, claim.experts);
  append(bytes, claim.shards.size());
  for (const ByteRange& shard : claim.shards) append(bytes, shard);
  append(bytes, claim.hashes.size());
  for (const XXH128_hash_t& hash : claim.hashes) append(bytes, hash);
  return bytes;
}

Claim claim_from_bytes(std::string_view bytes) {
  Claim claim;
  claim.experts = take<ExpertRange>(bytes);
  claim.shards = take_all<ByteRange>(bytes);
  claim.hashes = take_all<XXH128_hash_t>(bytes);
  return claim;
}

// The plan of a rank; under kPlacement only the beginning of each of its tensors.
LoadPlan plan_to_compare(const Verification& v, int64_t rank) {
  LoadPlan plan = plan_reads(v.placement.shards_of(rank), v.index);
  if (v.level == Verify::kFull) return plan;
  std::unordered_set<std::string> seen;
  std::erase_if(plan.reads, [&](const ReadRange& range) { return !seen.insert(range.tensor).second; });
  for (ReadRange& range : plan.reads) range.from = range.from.piece(0, std::min(kSample, range.from.nbytes));
  return plan;
}

Claim own_claim(const Verification& v, const ShardSpans& shards) {
  const int64_t rank = v.groups.world->rank();
  const LoadPlan plan = plan_to_compare(v, rank);
  const std::vector<SharedRead> pieces = merge_plans({plan}, kPiece);
  Claim claim{v.placement.experts_of(rank), {}, std::vector<XXH128_hash_t>(pieces.size())};
  for (const ShardPlan& shard : plan.shards) claim.shards.push_back(shard.shard);
  for_each_item(pieces.size(), v.num_threads, [&](size_t i) {
    const Target& target = pieces[i].targets.front();
    const auto bytes = shards[target.image].subspan(target.shard_offset, pieces[i].from.landed_nbytes());
    claim.hashes[i] = XXH3_128bits(bytes.data(), bytes.size());
  });
  return claim;
}

// The ranks whose memory `rank` compares with the files.
std::vector<int64_t> subjects_of(const Verification& v, int64_t rank) {
  const int64_t world = v.groups.world->size();
  if (v.mode == LoadMode::kDirect) return {(rank + world - 1) % world};
  const ProcessGroup& group = v.mode == LoadMode::kNode ? *v.groups.node : *v.groups.world;
  // In a node the last rank: not the one that has read.
  const int64_t verifier = v.mode == LoadMode::kNode ? group.size() - 1 : 0;
  return group.rank() == verifier ? group.ranks() : std::vector<int64_t>{};
}

std::string whose(const Verification& v, int64_t rank) {
  return v.groups.control ? " of " + v.groups.control->rank_text(rank) : "";
}

uint64_t compare_with_files(const Verification& v, const std::vector<int64_t>& subjects,
                            const std::vector<Claim>& claims) {
  std::vector<LoadPlan> plans;
  for (size_t s = 0; s < subjects.size(); ++s) {
    plans.push_back(plan_to_compare(v, subjects[s]));
    const auto same = [](const ShardPlan& planned, const ByteRange& held) {
      return planned.shard.begin == held.begin && planned.shard.end == held.end;
    };
    if (!std::equal(plans[s].shards.begin(), plans[s].shards.end(), claims[s].shards.begin(), claims[s].shards.end(),
                    same)) {
      throw run_error("load.verify",
                      "the memory" + whose(v, subjects[s]) + " is cut into other shards than the plan says");
    }
  }
  const std::vector<SharedRead> pieces = merge_plans(plans, kPiece);
  // A rank's pieces are numbered in the order of the files, here as there.
  std::vector<size_t> next(subjects.size(), 0);
  std::vector<std::vector<size_t>> numbers(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i)
    for (const Target& target : pieces[i].targets) numbers[i].push_back(next[target.member]++);
  for (size_t s = 0; s < subjects.size(); ++s)
    MORAINE_ASSERT(next[s] == claims[s].hashes.size(), "a rank hashes every piece of its plan");

  const CheckpointFiles files(v.index);
  std::atomic<uint64_t> bytes_read{0};
  for_each_item(pieces.size(), v.num_threads, [&](size_t i) {
    const SharedRead& piece = pieces[i];
    thread_local std::vector<std::byte> buffer;
    if (buffer.size() < kPiece) buffer.resize(kPiece);
    const std::span<std::byte> bytes(buffer.data(), piece.from.landed_nbytes());
    files.read(piece.from, bytes);
    bytes_read += piece.from.read_nbytes();
    const XXH128_hash_t expected = XXH3_128bits(bytes.data(), bytes.size());
    for (size_t t = 0; t < piece.targets.size(); ++t) {
      const int64_t member = piece.targets[t].member;
      if (XXH128_isEqual(expected, claims[member].hashes[numbers[i][t]])) continue;
      throw run_error(
          v.index.files[piece.from.file].path.string(),
          fmt::format("tensor {} in the memory{} differs from the file", piece.tensor, whose(v, subjects[member])),
          "the file changed while it was read, or memory is faulty; run again");
    }
  });
  return bytes_read;
}

// That the ranks of this rank's EP group hold every expert once.
void account_for_experts(const Verification& v, int64_t num_experts, const std::function<Claim(int64_t)>& claim_of) {
  std::vector<int64_t> holders(num_experts, 0);
  for (int64_t rank : v.placement.mesh().group(MeshAxis::kEp, v.groups.world->rank())) {
    const ExpertRange held = claim_of(rank).experts;
    for (int64_t expert = held.first; expert < held.end(); ++expert)
      if (expert >= 0 && expert < num_experts) ++holders[expert];
  }
  for (int64_t expert = 0; expert < num_experts; ++expert) {
    if (holders[expert] == 1) continue;
    throw run_error("load.verify",
                    fmt::format("expert {} is held by {} ranks of the expert-parallel group{}, not by one", expert,
                                holders[expert], whose(v, v.groups.world->rank())));
  }
}

}  // namespace

uint64_t verify_shards(const Verification& v, const ShardSpans& shards) {
  const int64_t self = v.groups.world->rank();
  const Claim own = own_claim(v, shards);
  const auto key = [&](int64_t rank) { return fmt::format("load/claim/{}/{}", v.part, rank); };
  if (v.groups.control) v.groups.control->put(key(self), to_bytes(own));
  const auto claim_of = [&](int64_t rank) {
    if (rank == self) return own;
    return claim_from_bytes(v.groups.control->wait_for(key(rank), "the hashes of " + v.groups.control->rank_text(rank),
                                                       Patience::kWhileAlive));
  };
  const std::vector<int64_t> subjects = subjects_of(v, self);
  std::vector<Claim> claims;
  for (int64_t subject : subjects) claims.push_back(claim_of(subject));
  const uint64_t bytes_read = subjects.empty() ? 0 : compare_with_files(v, subjects, claims);
  if (v.placement.mesh().group_rank(MeshAxis::kEp, self) == 0)
    account_for_experts(v, v.placement.num_experts(), claim_of);
  return bytes_read;
}

}  // namespace moraine
