#include "distributed/collectives/mesh.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace moraine {

namespace {

// "1, 2, 3 and 6": the sizes that would have fitted.
std::string divisors(int64_t n) {
  std::vector<std::string> words;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) words.push_back(std::to_string(d));
  }
  if (words.size() > 8) words = {words[0], words[1], words[2], words[3], "…", words.back()};
  return join_words(words);
}

void require_positive(const char* key, int64_t value) {
  if (value < 1) throw input_error(key, fmt::format("is {}, but must be at least 1", value));
}

std::string ranks_text(int64_t n) { return n == 1 ? "1 rank" : fmt::format("{} ranks", n); }

}  // namespace

const char* mesh_axis_name(MeshAxis axis) {
  switch (axis) {
    case MeshAxis::kWorld:
      return "world";
    case MeshAxis::kEp:
      return "ep";
    case MeshAxis::kEpFsdp:
      return "ep_fsdp";
    case MeshAxis::kFsdp:
      return "fsdp";
    case MeshAxis::kReplicate:
      return "replicate";
    case MeshAxis::kExpertPeers:
      return "expert_peers";
  }
  MORAINE_ASSERT(false, "unknown mesh axis");
}

Mesh Mesh::make(int64_t world_size, const MeshRequest& request) {
  MORAINE_ASSERT(world_size >= 1, "a world has at least one rank");
  Mesh mesh;
  mesh.replicate = request.replicate.value_or(1);
  mesh.ep = request.ep;
  require_positive("mesh.replicate", mesh.replicate);
  require_positive("mesh.ep", mesh.ep);
  if (world_size % mesh.replicate != 0) {
    throw input_error("mesh.replicate", fmt::format("{} does not divide {}", mesh.replicate, ranks_text(world_size)),
                      fmt::format("{} would", divisors(world_size)));
  }
  const int64_t replica = world_size / mesh.replicate;
  const std::string whose =
      mesh.replicate == 1 ? ranks_text(world_size)
                          : fmt::format("{} ({} / mesh.replicate {})", ranks_text(replica), world_size, mesh.replicate);
  if (replica % mesh.ep != 0) {
    throw input_error("mesh.ep", fmt::format("{} does not divide {}", mesh.ep, whose),
                      fmt::format("{} would; start the ranks with --ranks or torchrun", divisors(replica)));
  }
  mesh.ep_fsdp = replica / mesh.ep;
  mesh.fsdp = request.fsdp.value_or(replica);
  require_positive("mesh.fsdp", mesh.fsdp);
  if (replica % mesh.fsdp != 0) {
    throw input_error("mesh.fsdp", fmt::format("{} does not divide {}", mesh.fsdp, whose),
                      fmt::format("{} would, or auto", divisors(replica)));
  }
  return mesh;
}

MeshCoordinates Mesh::coordinates(int64_t rank) const {
  MORAINE_ASSERT(rank >= 0 && rank < world_size(), "rank outside the mesh");
  return {.replicate = rank / replica_size(), .ep_fsdp = rank / ep % ep_fsdp, .ep = rank % ep};
}

int64_t Mesh::rank_at(const MeshCoordinates& at) const { return (at.replicate * ep_fsdp + at.ep_fsdp) * ep + at.ep; }

int64_t Mesh::group_size(MeshAxis axis) const {
  switch (axis) {
    case MeshAxis::kWorld:
      return world_size();
    case MeshAxis::kEp:
      return ep;
    case MeshAxis::kEpFsdp:
      return ep_fsdp;
    case MeshAxis::kFsdp:
      return fsdp;
    case MeshAxis::kReplicate:
      return replicate;
    case MeshAxis::kExpertPeers:
      return ep_fsdp * replicate;
  }
  MORAINE_ASSERT(false, "unknown mesh axis");
}

std::vector<int64_t> Mesh::group(MeshAxis axis, int64_t rank) const {
  const MeshCoordinates at = coordinates(rank);
  // Every group is an arithmetic sequence of ranks.
  int64_t first = 0, step = 1;
  switch (axis) {
    case MeshAxis::kWorld:
      break;
    case MeshAxis::kEp:
      first = rank - at.ep;
      break;
    case MeshAxis::kEpFsdp:
      first = at.replicate * replica_size() + at.ep, step = ep;
      break;
    case MeshAxis::kFsdp:
      first = rank / fsdp * fsdp;
      break;
    case MeshAxis::kReplicate:
      first = rank % replica_size(), step = replica_size();
      break;
    case MeshAxis::kExpertPeers:
      first = at.ep, step = ep;
      break;
  }
  std::vector<int64_t> ranks(group_size(axis));
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = first + static_cast<int64_t>(i) * step;
  return ranks;
}

int64_t Mesh::group_rank(MeshAxis axis, int64_t rank) const {
  const MeshCoordinates at = coordinates(rank);
  switch (axis) {
    case MeshAxis::kWorld:
      return rank;
    case MeshAxis::kEp:
      return at.ep;
    case MeshAxis::kEpFsdp:
      return at.ep_fsdp;
    case MeshAxis::kFsdp:
      return rank % fsdp;
    case MeshAxis::kReplicate:
      return at.replicate;
    case MeshAxis::kExpertPeers:
      return rank / ep;
  }
  MORAINE_ASSERT(false, "unknown mesh axis");
}

bool Mesh::ep_inside_nodes(int64_t local_world_size) const { return local_world_size % ep == 0; }

std::string Mesh::describe() const {
  return fmt::format("{} = ep {} × ep_fsdp {} × replicate {}, fsdp {}", ranks_text(world_size()), ep, ep_fsdp,
                     replicate, fsdp);
}

std::vector<MeshCommunicator> mesh_communicators(const Mesh& mesh, int64_t rank) {
  const auto carries_tokens = [](MeshPurpose purpose) {
    return purpose == MeshPurpose::kTokens || purpose == MeshPurpose::kEp;
  };
  std::vector<MeshCommunicator> needed;
  for (const MeshGroupSpec& spec : kMeshGroups) {
    if (mesh.group_size(spec.axis) == 1) continue;
    const std::vector<int64_t> ranks = mesh.group(spec.axis, rank);
    const auto shared = std::find_if(needed.begin(), needed.end(), [&](const MeshCommunicator& other) {
      return other.ranks == ranks && carries_tokens(other.purposes[0]) == carries_tokens(spec.purpose);
    });
    if (shared == needed.end())
      needed.push_back({{spec.purpose}, ranks});
    else
      shared->purposes.push_back(spec.purpose);
  }
  return needed;
}

ExpertRange expert_range(int64_t num_experts, int64_t ep, int64_t ep_index) {
  MORAINE_ASSERT(ep >= 1 && ep_index >= 0 && ep_index < ep, "EP rank outside its group");
  if (ep > num_experts) {
    throw input_error("mesh.ep", fmt::format("{} is more than the model's {} experts", ep, num_experts),
                      fmt::format("use at most {}", num_experts));
  }
  const int64_t share = num_experts / ep, more = num_experts % ep;
  return {.first = ep_index * share + std::min(ep_index, more), .count = share + (ep_index < more ? 1 : 0)};
}

int64_t expert_owner(int64_t num_experts, int64_t ep, int64_t expert) {
  MORAINE_ASSERT(expert >= 0 && expert < num_experts && ep <= num_experts, "expert outside the model");
  const int64_t share = num_experts / ep, more = num_experts % ep;
  const int64_t in_larger_shares = more * (share + 1);
  return expert < in_larger_shares ? expert / (share + 1) : more + (expert - in_larger_shares) / share;
}

}  // namespace moraine
