// CLI entry: the one place where errors end, as one line and an exit code.
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/path.h"
#include "base/process.h"
#include "base/text.h"
#include "cli/cli.h"

namespace {

int end_with(const moraine::Error& error) {
  std::fprintf(stderr, "moraine: error: %s\n", error.what());
  return static_cast<int>(error.kind);
}

int run(int argc, char** argv) {
  moraine::fill_closed_standard_streams();
  moraine::make_write_failures_errors();
  try {
    moraine::settle_cpu_computation();
    moraine::keep_freed_memory();
    moraine::let_callers_handle_nccl_errors();
    moraine::make_cublas_reproducible();
    return moraine::run_command_line(argc, argv);
  } catch (const moraine::Error& error) {
    return end_with(error);
  } catch (const std::system_error& error) {
    return end_with(moraine::error_of_system(error));
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "moraine: error: memory: allocation failed (use a smaller micro_batch_size or max_length)\n");
    return 1;
  } catch (const std::exception& error) {
    const std::string text = error.what();  // torch appends a stack trace after the first line
    const std::string line = moraine::one_line(text.substr(0, text.find('\n')), 3000);
    std::fprintf(stderr, "moraine: error: internal: %s (please report this)\n", line.c_str());
    return 1;
  }
}

}  // namespace

int main(int argc, char** argv) { moraine::end_process(run(argc, argv)); }
