#include "distributed/collectives/from_rank0.h"

#include <ATen/ATen.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/file.h"

namespace moraine {

namespace {
constexpr uint64_t kLargestFromRank0 = uint64_t{1} << 40;  // bytes
}  // namespace

std::string from_rank0(MeshGroups& groups, const std::string& name, const std::function<std::string()>& make) {
  if (!groups.control) return make();
  const std::string key = "from_rank0/" + name;
  std::string bytes;
  if (groups.world->rank() == 0) {
    bytes = make();
    groups.control->put(key, std::to_string(bytes.size()));
  } else {
    const std::string text = groups.control->wait_for(key, name + " from rank 0", Patience::kWhileAlive);
    uint64_t size = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (error != std::errc() || end != text.data() + text.size() || size > kLargestFromRank0) {
      throw run_error("start", "the control store holds a size of " + name + " that rank 0 has not written");
    }
    bytes.resize(size);
  }
  if (bytes.empty()) return bytes;
  const auto options = at::TensorOptions().dtype(at::kByte);
  groups.host().broadcast(at::from_blob(bytes.data(), {static_cast<int64_t>(bytes.size())}, options), 0);
  return bytes;
}

FolderFromRank0::FolderFromRank0(MeshGroups& groups, const std::string& name, const std::filesystem::path& folder,
                                 const std::vector<std::string>& files)
    : path_(folder), is_copy_(groups.world->rank() != 0) {
  if (is_copy_) {
    std::error_code no_folder;
    std::string pattern = (std::filesystem::temp_directory_path(no_folder) / "moraine-XXXXXX").string();
    if (no_folder || !mkdtemp(pattern.data()))
      throw run_error("TMPDIR",
                      "cannot make a temporary folder: " +
                          (no_folder ? no_folder.message() : pattern + ": " + std::strerror(errno)),
                      "set it to a folder that can be written");
    path_ = pattern;
  }
  for (const std::string& file : files) {
    const std::string bytes =
        from_rank0(groups, name + "/" + file, [&] { return read_text_file(folder / file, kLargestFromRank0); });
    if (is_copy_) write_file_atomic(path_ / file, bytes);
  }
}

FolderFromRank0::~FolderFromRank0() {
  std::error_code ignored;
  if (is_copy_) std::filesystem::remove_all(path_, ignored);
}

}  // namespace moraine
