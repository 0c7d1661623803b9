#include "cli/cli.h"

#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/log.h"
#include "base/output.h"
#include "base/text.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/parse_args.h"
#include "distributed/control/launch.h"
#include "tensor/tensor_memory.h"

namespace moraine {
namespace {

std::string built_commands() {
  std::vector<std::string> names;
  for (const Command& command : commands()) names.push_back(command.name);
  return join_words(names);
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (command.name == name) return command;
    names.push_back(command.name);
  }
  const bool is_flag = name.starts_with("-");
  const std::string nearest = nearest_word(name, names);
  throw input_error("moraine", fmt::format("unknown {} {}", is_flag ? "flag" : "command", quote_text(name)),
                    nearest.empty() ? "moraine --help lists the commands" : fmt::format("did you mean {}?", nearest));
}

// Commands that run in one process, whoever started it.
void check_one_rank(const Command& command) {
  const WorldInfo world = world_from_environment();
  if (world.distributed()) {
    throw input_error(launch_source_name(world.source),
                      fmt::format("started {} ranks, but {} runs in one process", world.world_size, command.name),
                      "start one process");
  }
  set_thread_count(world);
}

}  // namespace

int run_command_line(int argc, char** argv) {
  reuse_tensor_memory();
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty()) {
    std::fprintf(stderr,
                 "moraine: error: moraine: no command is given (moraine --help explains them all)\n"
                 "  usage: moraine COMMAND [flags] [section.key=value ...]\n"
                 "  commands: %s\n",
                 built_commands().c_str());
    return static_cast<int>(ErrorKind::kInput);
  }
  if (words[0] == "--help" || words[0] == "-h") {
    print_result(program_help());
    return 0;
  }
  if (words[0] == "--version") {
    print_result(fmt::format("moraine {} (libtorch {})\n", kProgramVersion, TORCH_VERSION));
    return 0;
  }
  const Command& command = find_command(words[0]);
  std::optional<CommandArgs> args = parse_args(command, {words.begin() + 1, words.end()});
  if (!args) {
    print_result(command_help(command));
    return 0;
  }
  if (args->json) silence_log();
  if (!command.runs_on_ranks) check_one_rank(command);
  return command.run(*args);
}

}  // namespace moraine
