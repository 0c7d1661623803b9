#include "distributed/launch/run_rank.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <sys/prctl.h>

#include <cstdio>
#include <cstdlib>
#include <new>
#include <optional>

#include "base/log.h"
#include "base/path.h"
#include "distributed/control/control_store.h"

namespace moraine {

int run_rank(const WorldInfo& world, const ControlOptions& options, const std::function<int(Control&)>& body) {
  if (world.rank != 0) silence_log();
  if (world.distributed()) prctl(PR_SET_NAME, fmt::format("moraine:{}", world.rank).c_str());
  set_thread_count(world);
  std::optional<Control> control;
  try {
    control.emplace(world, options);
  } catch (const Error& e) {
    print_error(e.what());
    return static_cast<int>(e.kind);
  }
  std::optional<Error> error;
  int code = 0;
  try {
    code = body(*control);
    control->finish();
  } catch (const Error& e) {
    error = e;
  } catch (const std::system_error& e) {
    error = error_of_system(e);
  } catch (const std::bad_alloc&) {
    error = run_error("memory", "allocation failed", "use a smaller micro_batch_size or max_length");
  } catch (const c10::OutOfMemoryError&) {
    error = run_error("memory", "the device's memory is full",
                      "use a smaller micro_batch_size or max_length, or more ranks");
  } catch (const std::exception& e) {
    error = run_error("internal", exception_text(e), "please report this");
  }
  if (!error) return code;
  code = control->fail(*error);
  if (!world.distributed()) return code;
  std::fflush(nullptr);
  std::_Exit(code);
}

}  // namespace moraine
