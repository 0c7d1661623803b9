#include "base/lfs_pointer.h"

#include "base/error.h"

namespace moraine {

bool is_lfs_pointer(const File& file) {
  constexpr std::string_view kBeginning = "version https://git-lfs.github.com/spec/v";
  constexpr uint64_t kMostBytes = 1024;  // what is larger is none, as the format says
  if (file.size() < kBeginning.size() || file.size() >= kMostBytes) return false;
  std::string beginning(kBeginning.size(), '\0');
  file.read_exact(std::as_writable_bytes(std::span(beginning)), 0);
  return beginning == kBeginning;
}

void refuse_lfs_pointer(const File& file) {
  if (!is_lfs_pointer(file)) return;
  throw input_error(file.path().string(),
                    "is a Git LFS pointer, not the file itself: the repository was cloned without git-lfs",
                    "run `git lfs pull` in it, or download the file");
}

}  // namespace moraine
