// moraine report: the page about a run, written again from its folder.
#include "report/run_report.h"

#include <filesystem>

#include "base/log.h"
#include "cli/cli.h"

namespace moraine {

int run_report(const CommandArgs& args) {
  write_run_report(args.folder);
  log_info("Report: {}", (std::filesystem::path(args.folder) / "report.html").string());
  return 0;
}

}  // namespace moraine
