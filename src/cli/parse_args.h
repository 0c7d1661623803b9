// The words after a command's name, as its CommandArgs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"

namespace moraine {

// nullopt when --help is among them. Throws input errors, with the nearest known flag for one that is not known.
std::optional<CommandArgs> parse_args(const Command& command, const std::vector<std::string>& words);

}  // namespace moraine
