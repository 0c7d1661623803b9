// What commands there are and what each of them takes: the one table behind parsing and --help.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "cli/cli.h"

namespace moraine {

struct Flag {
  // Where the value goes; a bool is a switch, everything else takes one value, and a list one each time it is given.
  using Target = std::variant<bool CommandArgs::*, std::string CommandArgs::*, int64_t CommandArgs::*,
                              uint64_t CommandArgs::*, double CommandArgs::*, std::vector<std::string> CommandArgs::*>;
  std::string name;   // "--model"
  std::string value;  // what --help calls the value; empty for a switch
  std::string text;
  Target target;
  bool required = false;
};

// The one argument without a name, e.g. RECIPE.yaml.
struct Positional {
  std::string value;
  std::string text;
  std::string CommandArgs::*target;
  bool required = true;
};

struct Command {
  std::string name;
  std::string summary;
  std::string usage;  // after `moraine NAME`
  std::vector<Positional> positionals{};
  std::vector<Flag> flags{};
  bool takes_overrides = false;
  bool runs_on_ranks = false;  // starts or joins several ranks itself
  std::vector<std::string> examples{};
  int (*run)(const CommandArgs& args) = nullptr;
};

const std::vector<Command>& commands();

std::string program_help();
std::string command_help(const Command& command);

}  // namespace moraine
