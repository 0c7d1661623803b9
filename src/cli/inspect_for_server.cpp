// moraine inspect --for: what PEFT, vLLM or SGLang makes of an adapter's keys.
#include <fmt/format.h>

#include <algorithm>

#include "adapter/open_adapter.h"
#include "adapter/server_keys.h"
#include "adapter/server_layouts.h"
#include "base/error.h"
#include "base/output.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/inspect_folder.h"

namespace moraine {
namespace {

constexpr size_t kLongestKey = 300;

const char* word_of_fate(Fate fate) {
  switch (fate) {
    case Fate::kRead:
      return "read";
    case Fate::kIgnored:
      return "ignored";
    default:
      return "refused";
  }
}

// What export can write for that program, or why nothing.
struct Exported {
  std::string layout, arguments, error;
};

Exported exported(const Server& server, const std::string& family, const ModelLayout& layout,
                  const std::filesystem::path& folder) {
  try {
    const AdapterSelection selection = read_adapter_selection(layout, folder);
    if (server.arguments.empty()) return {server.name, "", ""};
    return {server.name, server_layout(server.name, family, layout, folder, selection).arguments, ""};
  } catch (const Error& error) {
    return {"", "", error.what()};
  }
}

OrderedJson rows_json(const std::vector<KeyRow>& rows) {
  OrderedJson json = OrderedJson::array();
  for (const KeyRow& row : rows)
    json.push_back({{"keys", row.keys},
                    {"first", row.first},
                    {"count", row.count},
                    {"fate", word_of_fate(row.fate)},
                    {row.fate == Fate::kRead ? "module" : "why", row.says}});
  return json;
}

std::string row_text(const std::string& keys, const std::string& count, const std::string& fate,
                     const std::string& says, size_t width) {
  return fmt::format("  {:<{}}  {:>7}  {:<8}  {}\n", one_line(keys, kLongestKey), width, count, fate,
                     one_line(says, kLongestKey));
}

std::string describe(const Server& server, const std::string& family, const std::filesystem::path& folder,
                     const ServerReport& report, const Exported& can) {
  size_t width = 4;
  for (const std::vector<KeyRow>* rows : {&report.config, &report.tensors})
    for (const KeyRow& row : *rows) width = std::max(width, one_line(row.keys, kLongestKey).size());
  std::string text = fmt::format("{} in {}, on {}\n", one_line(folder.string(), kLongestKey), server.version, family);
  for (const KeyRow& row : report.config) text += row_text(row.keys, "config", word_of_fate(row.fate), row.says, width);
  text += row_text("keys", "count", "what", "where to, or why not", width);
  for (const KeyRow& row : report.tensors) {
    text += row_text(row.keys, fmt::format("{}", row.count), word_of_fate(row.fate), row.says, width);
    if (row.fate != Fate::kRead && row.first != row.keys)
      text += fmt::format("    first: {}\n", one_line(row.first, kLongestKey));
  }
  if (report.refused > 0)
    text += fmt::format("{} does not take this adapter as it is\n", server.version);
  else if (report.ignored > 0)
    text += fmt::format("{} takes this adapter without what it ignores\n", server.version);
  if (report.is_read())
    text += fmt::format("every key is read{}\n", can.arguments.empty() ? "" : ": " + can.arguments + folder.string());
  else if (can.layout.empty())
    text += fmt::format("no export --layout would be read: {}\n", one_line(can.error, 2 * kLongestKey));
  else
    text += fmt::format("moraine export --layout {} would be read{}\n", can.layout,
                        can.arguments.empty() ? "" : ": " + can.arguments + "DIR");
  return text;
}

}  // namespace

int inspect_for_server(const CommandArgs& args) {
  const auto server =
      std::find_if(servers().begin(), servers().end(), [&](const Server& s) { return s.name == args.server; });
  if (server == servers().end()) {
    std::vector<std::string> names;
    for (const Server& known : servers()) names.push_back(known.name);
    throw input_error("--for", quote_text(args.server) + " is not known", "one of " + join_words(names));
  }
  if (args.model.empty()) throw input_error("--for", "needs --model", "the checkpoint's folder, or its config.json");
  const HfConfig config = HfConfig::read(args.model);
  const auto layout = make_layout(config, DtypeChoice::kBFloat16);
  const std::string family = served_family(config);
  const ServerReport report = check_for_server(*server, family, *layout, args.folder);
  const Exported can = exported(*server, family, *layout, args.folder);
  if (args.json) {
    print_json({{"adapter", args.folder},
                {"for", server->version},
                {"family", family},
                {"config", rows_json(report.config)},
                {"tensors", rows_json(report.tensors)},
                {"read", report.read},
                {"ignored", report.ignored},
                {"refused", report.refused},
                {"layout", can.layout.empty() ? OrderedJson() : OrderedJson(can.layout)},
                {"layout_error", can.layout.empty() ? OrderedJson(can.error) : OrderedJson()}});
  } else {
    print_result(describe(*server, family, args.folder, report, can));
  }
  return report.is_read() ? 0 : 1;
}

}  // namespace moraine
