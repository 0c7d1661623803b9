// Rank 0's bytes on every rank, for what only rank 0 can see.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "distributed/collectives/mesh_groups.h"

namespace moraine {

// What `make` returns on rank 0; it runs there only. All ranks of the world must call this, with a name that is used
// once. The others wait as long as rank 0 lives, in no collective, until it is made; then one broadcast brings it.
std::string from_rank0(MeshGroups& groups, const std::string& name, const std::function<std::string()>& make);

// Some files of a folder that only rank 0 can see: there the folder itself, on other ranks a temporary copy, removed
// with this object.
class FolderFromRank0 {
 public:
  // All ranks of the world must call this, with a name that is used once. Throws as reading the files on rank 0 does,
  // and a run error where there is no room for the copy.
  FolderFromRank0(MeshGroups& groups, const std::string& name, const std::filesystem::path& folder,
                  const std::vector<std::string>& files);
  ~FolderFromRank0();
  FolderFromRank0(const FolderFromRank0&) = delete;
  FolderFromRank0& operator=(const FolderFromRank0&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  bool is_copy_ = false;
};

}  // namespace moraine
