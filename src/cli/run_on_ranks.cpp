#include "cli/run_on_ranks.h"

#include <fmt/format.h>

#include "base/error.h"
#include "dist/launch.h"
#include "dist/local_ranks.h"
#include "dist/run_rank.h"

namespace moraine {

int run_on_ranks(const CommandArgs& args, const std::function<void(int64_t ranks)>& check,
                 const std::function<int(Control&)>& body) {
  if (args.ranks < 1) throw input_error("--ranks", fmt::format("{} is not 1 or more", args.ranks));
  const auto rank = [&] { return run_rank(world_from_environment(), ControlOptions::from_environment(), body); };
  if (args.ranks == 1) return rank();
  check_ranks_flag(args.ranks);
  check(args.ranks);
  return run_local_ranks(args.ranks, rank);
}

}  // namespace moraine
