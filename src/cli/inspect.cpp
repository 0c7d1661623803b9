// moraine inspect: what a folder holds.
#include "base/error.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/inspect_folder.h"

namespace moraine {

int run_inspect(const CommandArgs& args) {
  const std::filesystem::path folder = args.folder;
  if (!std::filesystem::is_directory(folder)) throw input_error(args.folder, "there is no such folder");
  const bool is_adapter = std::filesystem::exists(folder / "adapter_config.json");
  if (!is_adapter && !std::filesystem::exists(folder / "config.json")) {
    throw input_error(args.folder, "holds neither config.json nor adapter_config.json",
                      "name a Hugging Face checkpoint or a PEFT adapter");
  }
  const OrderedJson facts = is_adapter ? inspect_adapter(folder) : inspect_model(folder);
  if (args.json) {
    fmt::print("{}\n", facts.dump());
  } else {
    fmt::print("{}", is_adapter ? describe_adapter(facts) : describe_model(facts));
  }
  return 0;
}

}  // namespace moraine
