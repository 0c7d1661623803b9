// moraine inspect: what a folder holds.
#include <fmt/format.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/inspect_folder.h"
#include "dist/launch.h"
#include "load/manifest.h"

namespace moraine {
namespace {

void print_totals(const std::string& verb, const ManifestTotals& totals, const std::string& manifest) {
  fmt::print("{} {} tensors and {} files, {}: {}\n", verb, totals.tensors, totals.files, format_bytes(totals.bytes), manifest);
}

// Writes hashes of the folder's files, or compares with those written before.
int hash_folder(const CommandArgs& args) {
  if (args.hash && args.check) throw input_error("--hash", "cannot be used together with --check");
  const std::filesystem::path folder = args.folder;
  const std::string manifest = args.manifest.empty() ? (folder / kManifestName).string() : args.manifest;
  const int num_threads = static_cast<int>(default_thread_count(1));
  if (args.hash) {
    const ManifestTotals totals = write_manifest(folder, manifest, num_threads);
    if (args.json) fmt::print("{}\n", OrderedJson{{"manifest", manifest}, {"files", totals.files}, {"tensors", totals.tensors}}.dump());
    else print_totals("hashed", totals, manifest);
    return 0;
  }
  ManifestTotals totals;
  const std::vector<std::string> differences = check_manifest(folder, manifest, num_threads, totals);
  if (args.json) fmt::print("{}\n", OrderedJson{{"manifest", manifest}, {"differences", differences}}.dump());
  if (!differences.empty()) {
    throw run_error((folder / differences.front()).string(),
                    differences.size() == 1 ? "all else is as hashed" : fmt::format("and {} differences more (--json lists all)", differences.size() - 1),
                    "copy or download the file again");
  }
  if (!args.json) print_totals("unchanged:", totals, manifest);
  return 0;
}

}  // namespace

int run_inspect(const CommandArgs& args) {
  const std::filesystem::path folder = args.folder;
  if (!std::filesystem::is_directory(folder)) throw input_error(args.folder, "there is no such folder");
  if (args.hash || args.check) return hash_folder(args);
  if (!args.manifest.empty()) throw input_error("--manifest", "is for --hash and --check only");
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
