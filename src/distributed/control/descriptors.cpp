#include "distributed/control/descriptors.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace moraine {

namespace {

// Some systems have no limit: then a number that nothing here comes near.
int64_t descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return std::numeric_limits<int32_t>::max();
  return static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, std::numeric_limits<int32_t>::max()));
}

// 3 where the system does not tell.
int64_t open_descriptors() {
  DIR* folder = opendir("/proc/self/fd");
  if (!folder) return 3;
  int64_t count = -1;  // its own
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

}  // namespace

void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int64_t free_descriptors() { return std::max<int64_t>(0, descriptor_limit() - open_descriptors()); }

void require_descriptors(int64_t count, const std::string& what) {
  if (free_descriptors() >= count) return;
  throw run_error("file descriptors",
                  fmt::format("{} needs {} more than the {} that are open, and the limit is {}", what, count,
                              open_descriptors(), descriptor_limit()),
                  fmt::format("raise the hard limit: ulimit -Hn {}", open_descriptors() + count));
}

}  // namespace moraine
