// The facts about a checkpoint or an adapter, as one JSON object and as lines for a reader.
#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "cli/cli.h"

namespace moraine {

// Reads headers only, but proves that every tensor which the config implies is there with the right shape. Throws input
// errors as loading would.
OrderedJson inspect_model(const std::filesystem::path& folder);
// Reads headers, and lora_B to see whether the adapter changes anything.
OrderedJson inspect_adapter(const std::filesystem::path& folder);

// `facts` of the functions above, a line each.
std::string describe_model(const OrderedJson& facts);
std::string describe_adapter(const OrderedJson& facts);

// moraine inspect ADAPTER --for: prints what a program makes of each key. The exit code: 1 where some are not read.
int inspect_for_server(const CommandArgs& args);

}  // namespace moraine
