#include "dist/from_rank0.h"

#include <ATen/ATen.h>

namespace moraine {

std::string from_rank0(MeshGroups& groups, const std::string& name, const std::function<std::string()>& make) {
  if (!groups.control) return make();
  const std::string key = "from_rank0/" + name;
  std::string bytes;
  if (groups.world->rank() == 0) {
    bytes = make();
    groups.control->put(key, std::to_string(bytes.size()));
  } else {
    bytes.resize(std::stoull(groups.control->wait_for(key, name + " from rank 0", Patience::kWhileAlive)));
  }
  if (bytes.empty()) return bytes;
  const auto options = at::TensorOptions().dtype(at::kByte);
  groups.world->broadcast(at::from_blob(bytes.data(), {static_cast<int64_t>(bytes.size())}, options), 0);
  return bytes;
}

}  // namespace moraine
