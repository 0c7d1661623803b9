// moraine export: an adapter in another layout.
#include <fmt/format.h>

#include <algorithm>

#include "adapter/convert_adapter.h"
#include "adapter/server_layouts.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/cli.h"
#include "models/registry.h"

namespace moraine {

int run_export(const CommandArgs& args) {
  std::vector<std::string> names{"peft", "per-expert"};
  for (const std::string& server : server_names()) names.push_back(server);
  if (std::find(names.begin(), names.end(), args.layout) == names.end())
    throw input_error("--layout", quote_text(args.layout) + " is no layout", "one of " + join_words(names));
  const HfConfig config = HfConfig::read(args.model);
  const auto layout = make_layout(config, "bfloat16");
  const AdapterSelection selection = read_adapter_selection(*layout, args.adapter);
  warn_of_unmatched_targets(selection.unmatched, args.adapter);

  AdapterFormat format = args.layout == "peft" ? AdapterFormat::kPeft : AdapterFormat::kPerExpert;
  std::string start;
  if (args.layout != "peft" && args.layout != "per-expert") {
    ServerLayout server = server_layout(args.layout, family_of(config).name, *layout, args.adapter, selection);
    format = server.format;
    start = fmt::format("{}: {}{}", server.version, server.arguments, args.out);
  }
  const ConvertedAdapter written = convert_adapter(*layout, args.adapter, selection, format, args.out);
  log_info(
      "Wrote {}: {} tensors, {}, {}", args.out, written.tensors, format_bytes(written.bytes),
      format == AdapterFormat::kPeft ? "all experts of a parameter in one" : "each expert's projections by themselves");
  if (!start.empty()) log_info("For {}", start);
  return 0;
}

}  // namespace moraine
