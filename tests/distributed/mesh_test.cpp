#include "distributed/collectives/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace moraine {
namespace {

using testing::HasSubstr;

std::string error_of(int64_t world, const MeshRequest& request) {
  try {
    Mesh::make(world, request);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, ErrorKind::kInput);
    return e.what();
  }
  return "";
}

// Every mesh of every world up to 24 ranks, and some large ones.
std::vector<Mesh> many_meshes() {
  std::vector<Mesh> meshes;
  for (int64_t world : {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 64, 1024}) {
    for (int64_t replicate = 1; replicate <= world; ++replicate) {
      if (world % replicate) continue;
      for (int64_t ep = 1; ep <= world / replicate; ++ep) {
        if (world / replicate % ep) continue;
        for (int64_t fsdp = 1; fsdp <= world / replicate; ++fsdp) {
          if (world / replicate % fsdp || (world > 24 && fsdp != ep && fsdp != world / replicate)) continue;
          meshes.push_back(Mesh::make(world, {.ep = ep, .fsdp = fsdp, .replicate = replicate}));
        }
      }
    }
  }
  return meshes;
}

TEST(Mesh, RankAndCoordinatesAreInverse) {
  for (const Mesh& mesh : many_meshes()) {
    for (int64_t rank = 0; rank < mesh.world_size(); ++rank) {
      const MeshCoordinates at = mesh.coordinates(rank);
      ASSERT_EQ(mesh.rank_at(at), rank);
      ASSERT_LT(at.ep, mesh.ep);
      ASSERT_LT(at.ep_fsdp, mesh.ep_fsdp);
      ASSERT_LT(at.replicate, mesh.replicate);
    }
  }
}

TEST(Mesh, GroupsOfTheSameRanksShareACommunicator) {
  const auto count = [](int64_t world, const MeshRequest& request) {
    return mesh_communicators(Mesh::make(world, request), 0).size();
  };
  EXPECT_EQ(count(1, {}), 0u);
  EXPECT_EQ(count(8, {.ep = 1}), 1u);
  EXPECT_EQ(count(8, {.ep = 8}), 2u) << "tokens have their own";
  EXPECT_EQ(count(8, {.ep = 2}), 3u);
  EXPECT_EQ(count(64, {.ep = 8, .replicate = 2}), 5u);
  for (const Mesh& mesh : many_meshes()) {
    const int64_t stride = mesh.world_size() > 24 ? 137 : 1;
    for (int64_t rank = 0; rank < mesh.world_size(); rank += stride) {
      const std::vector<MeshCommunicator> communicators = mesh_communicators(mesh, rank);
      std::set<MeshPurpose> served;
      for (const MeshCommunicator& communicator : communicators) {
        for (const MeshPurpose purpose : communicator.purposes) ASSERT_TRUE(served.insert(purpose).second);
        // All its ranks agree on what it is for.
        const int64_t peer = communicator.ranks.back();
        bool found = false;
        for (const MeshCommunicator& other : mesh_communicators(mesh, peer))
          found |= other.ranks == communicator.ranks && other.purposes == communicator.purposes;
        ASSERT_TRUE(found) << mesh.describe();
      }
      for (const MeshGroupSpec& spec : kMeshGroups)
        ASSERT_EQ(served.contains(spec.purpose), mesh.group_size(spec.axis) > 1) << spec.name;
    }
  }
}

TEST(Mesh, GroupsOfEveryAxisSplitTheWorld) {
  for (const Mesh& mesh : many_meshes()) {
    for (MeshAxis axis : kMeshAxes) {
      std::set<int64_t> covered;
      std::set<std::vector<int64_t>> groups;
      const int64_t stride = mesh.world_size() > 24 ? 137 : 1;
      for (int64_t rank = 0; rank < mesh.world_size(); rank += stride) {
        const auto group = mesh.group(axis, rank);
        ASSERT_EQ(static_cast<int64_t>(group.size()), mesh.group_size(axis));
        ASSERT_EQ(group[mesh.group_rank(axis, rank)], rank) << mesh.describe() << " " << mesh_axis_name(axis);
        ASSERT_TRUE(std::is_sorted(group.begin(), group.end()));
        for (size_t i = 0; i < group.size(); i += stride) ASSERT_EQ(mesh.group(axis, group[i]), group);
        groups.insert(group);
        covered.insert(group.begin(), group.end());
      }
      if (stride == 1) {
        ASSERT_EQ(static_cast<int64_t>(covered.size()), mesh.world_size());
        ASSERT_EQ(static_cast<int64_t>(groups.size()) * mesh.group_size(axis), mesh.world_size());
      }
    }
  }
}

TEST(Mesh, GroupsFollowTheCoordinates) {
  const Mesh mesh = Mesh::make(12, {.ep = 2, .fsdp = 3, .replicate = 2});
  EXPECT_EQ(mesh.ep_fsdp, 3);
  EXPECT_EQ(mesh.group(MeshAxis::kEp, 5), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(mesh.group(MeshAxis::kEpFsdp, 5), (std::vector<int64_t>{1, 3, 5}));
  EXPECT_EQ(mesh.group(MeshAxis::kFsdp, 5), (std::vector<int64_t>{3, 4, 5}));
  EXPECT_EQ(mesh.group(MeshAxis::kReplicate, 5), (std::vector<int64_t>{5, 11}));
  EXPECT_EQ(mesh.group(MeshAxis::kExpertPeers, 5), (std::vector<int64_t>{1, 3, 5, 7, 9, 11}));
  EXPECT_EQ(mesh.describe(), "12 ranks = ep 2 × ep_fsdp 3 × replicate 2, fsdp 3");
  EXPECT_TRUE(mesh.ep_inside_nodes(4));
  EXPECT_FALSE(mesh.ep_inside_nodes(3));
}

TEST(Mesh, AutoShardsDenseWeightsOverTheWholeReplica) {
  EXPECT_EQ(Mesh::make(8, {.ep = 2}).fsdp, 8);
  EXPECT_EQ((Mesh::make(8, {.ep = 2, .fsdp = {}, .replicate = 2}).fsdp), 4);
  EXPECT_EQ(Mesh::make(1, {}), Mesh{});
}

TEST(Mesh, ErrorsNameTheKeyAndWhatFits) {
  EXPECT_EQ(error_of(4, {.ep = 3}),
            "mesh.ep: 3 does not divide 4 ranks (1, 2 and 4 would; start the ranks with --ranks or torchrun)");
  EXPECT_THAT(error_of(1, {.ep = 2}), HasSubstr("mesh.ep: 2 does not divide 1 rank (1 would"));
  EXPECT_EQ(error_of(6, {.ep = 1, .fsdp = {}, .replicate = 4}),
            "mesh.replicate: 4 does not divide 6 ranks (1, 2, 3 and 6 would)");
  EXPECT_EQ(error_of(8, {.ep = 2, .fsdp = 3, .replicate = 2}),
            "mesh.fsdp: 3 does not divide 4 ranks (8 / mesh.replicate 2) (1, 2 and 4 would, or auto)");
  EXPECT_THAT(error_of(4, {.ep = 0}), HasSubstr("mesh.ep: is 0"));
  EXPECT_THAT(error_of(4, {.ep = 1, .fsdp = -1}), HasSubstr("mesh.fsdp: is -1"));
}

TEST(ExpertRange, CoversEveryExpertOnceWithTheFirstRanksHoldingOneMore) {
  for (int64_t experts : {1, 2, 5, 16, 128, 256}) {
    for (int64_t ep = 1; ep <= experts; ++ep) {
      int64_t next = 0, last_count = experts;
      for (int64_t index = 0; index < ep; ++index) {
        const ExpertRange range = expert_range(experts, ep, index);
        ASSERT_EQ(range.first, next);
        ASSERT_GE(range.count, experts / ep);
        ASSERT_LE(range.count, last_count);
        ASSERT_LE(range.count, experts / ep + 1);
        for (int64_t e = range.first; e < range.end(); ++e) ASSERT_EQ(expert_owner(experts, ep, e), index);
        next = range.end();
        last_count = range.count;
      }
      ASSERT_EQ(next, experts);
    }
  }
  EXPECT_EQ(expert_range(16, 3, 0), (ExpertRange{0, 6}));
  EXPECT_EQ(expert_range(16, 3, 2), (ExpertRange{11, 5}));
}

TEST(ExpertRange, RefusesMoreRanksThanExperts) {
  try {
    expert_range(4, 8, 0);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "mesh.ep: 8 is more than the model's 4 experts (use at most 4)");
  }
}

}  // namespace
}  // namespace moraine
