// moraine inspect: what a folder holds.
#include <fmt/format.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
#include "base/output.h"
#include "base/path.h"
#include "checkpoint/manifest.h"
#include "cli/cli.h"
#include "cli/inspect_folder.h"
#include "distributed/control/launch.h"
#include "formats/folder_parts.h"

namespace moraine {
namespace {

void print_totals(const std::string& verb, const ManifestTotals& totals, const std::string& manifest) {
  print_result(fmt::format("{} {} tensors and {} files, {}: {}\n", verb, totals.tensors, totals.files,
                           format_bytes(totals.bytes), for_terminal(manifest)));
}

// Writes hashes of the folder's files, or compares with those written before.
int hash_folder(const CommandArgs& args) {
  if (args.hash && args.check) throw input_error("--hash", "cannot be used together with --check");
  const std::filesystem::path folder = args.folder;
  const std::string manifest = args.manifest.empty() ? (folder / kManifestName).string() : args.manifest;
  const int num_threads = static_cast<int>(default_thread_count(1));
  if (args.hash) {
    const ManifestTotals totals = write_manifest(folder, manifest, num_threads);
    if (args.json)
      print_json(OrderedJson{{"manifest", manifest}, {"files", totals.files}, {"tensors", totals.tensors}});
    else
      print_totals("hashed", totals, manifest);
    return 0;
  }
  ManifestTotals totals;
  const std::vector<std::string> differences = check_manifest(folder, manifest, num_threads, totals);
  if (args.json) print_json(OrderedJson{{"manifest", manifest}, {"differences", differences}});
  if (!differences.empty()) {
    throw run_error((folder / differences.front()).string(),
                    differences.size() == 1
                        ? "all else is as hashed"
                        : fmt::format("and {} differences more (--json lists all)", differences.size() - 1),
                    "copy or download the file again");
  }
  if (!args.json) print_totals("unchanged:", totals, manifest);
  return 0;
}

}  // namespace

int run_inspect(const CommandArgs& args) {
  const std::filesystem::path folder = args.folder;
  if (!is_folder(folder)) throw no_such_folder(folder);
  if (args.hash || args.check) return hash_folder(args);
  if (!args.manifest.empty()) throw input_error("--manifest", "is for --hash and --check only");
  const bool is_adapter = path_exists(folder / "adapter_config.json");
  if (!is_adapter && !path_exists(folder / "config.json"))
    throw not_in_folder(folder, FolderPart::kConfig, "holds neither config.json nor adapter_config.json");
  if (!args.server.empty()) {
    if (!is_adapter) throw input_error("--for", "is for adapters", "a folder with adapter_config.json");
    return inspect_for_server(args);
  }
  if (!args.model.empty()) throw input_error("--model", "is for --for only");
  const OrderedJson facts = is_adapter ? inspect_adapter(folder) : inspect_model(folder);
  if (args.json) {
    print_json(facts);
  } else {
    print_result(is_adapter ? describe_adapter(facts) : describe_model(facts));
  }
  return 0;
}

}  // namespace moraine
