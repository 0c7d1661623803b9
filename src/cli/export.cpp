// moraine export: an adapter in another layout.
#include <fmt/format.h>

#include <algorithm>

#include "adapter/convert_adapter.h"
#include "adapter/server_layouts.h"
#include "adapter/server_rules.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/cli.h"

namespace moraine {

int run_export(const CommandArgs& args) {
  constexpr auto words = words_of(SaveLayout{});
  const auto word = std::find(words.begin(), words.end(), args.layout);
  if (word == words.end())
    throw input_error("--layout", quote_text(args.layout) + " is no layout",
                      "one of " + join_words({words.begin(), words.end()}));
  const HfConfig config = HfConfig::read(args.model);
  const auto layout = make_layout(config, DtypeChoice::kBFloat16);
  const AdapterSelection selection = read_adapter_selection(*layout, args.adapter);
  warn_of_unmatched_targets(selection.unmatched, args.adapter);
  const ChosenLayout chosen = choose_layout(static_cast<SaveLayout>(word - words.begin()), served_family(config),
                                            *layout, args.adapter, selection);
  const ConvertedAdapter written = convert_adapter(*layout, args.adapter, selection, chosen.format, args.out);
  log_info("Wrote {}: {} tensors, {}, {}", args.out, written.tensors, format_bytes(written.bytes),
           chosen.format == AdapterFormat::kPerExpert     ? "each expert's projections by themselves"
           : chosen.format == AdapterFormat::kSharedOuter ? "experts' factors stacked, shared ones once"
                                                          : "all experts of a parameter in one");
  if (!chosen.start.empty()) log_info("For {}{}", chosen.start, args.out);
  return 0;
}

}  // namespace moraine
