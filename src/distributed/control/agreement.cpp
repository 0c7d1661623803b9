#include "distributed/control/agreement.h"

#include <fmt/format.h>

#include <map>

#include "base/json.h"

namespace moraine {

namespace {

using Values = std::vector<std::pair<std::string, std::string>>;

std::string shown(const std::string& value) {
  return fmt::format("'{}{}'", value.substr(0, 100), value.size() > 100 ? "…" : "");
}

std::string values_to_json(const Values& values) {
  return Json(values).dump(-1, ' ', false, Json::error_handler_t::replace);
}

Values values_from_json(const std::string& text) try {
  return Json::parse(text).get<Values>();
} catch (const Json::exception&) {
  throw run_error("start", "the control store holds values to compare with that rank 0 has not written");
}

}  // namespace

std::optional<Error> first_difference(const std::string& rank_text, const Values& values, const Values& rank0_values) {
  auto refuse = [&](const std::string& key, const std::string& own, const std::string& rank0) {
    return input_error(rank_text, fmt::format("{} differs between ranks: {} here, {} on rank 0", key, own, rank0),
                       "all ranks need the same recipe, checkpoint, data and program");
  };
  const std::map<std::string, std::string> rank0(rank0_values.begin(), rank0_values.end());
  for (const auto& [key, value] : values) {
    const auto it = rank0.find(key);
    if (it == rank0.end()) return refuse(key, shown(value), "nothing");
    if (it->second != value) return refuse(key, shown(value), shown(it->second));
  }
  const std::map<std::string, std::string> own(values.begin(), values.end());
  for (const auto& [key, value] : rank0_values) {
    if (!own.contains(key)) return refuse(key, "nothing", shown(value));
  }
  return std::nullopt;
}

void check_agreement(Control& control, const std::string& name, const Values& values) {
  if (!control.world().distributed()) return;
  const std::string key = "agreement/" + name;
  if (control.world().rank == 0) {
    control.put(key, values_to_json(values));
  } else {
    const Values rank0 = values_from_json(control.wait_for(key, "rank 0's values to compare with"));
    // Ours take the same way through JSON, which may replace bytes that are not UTF-8.
    const Values own = values_from_json(values_to_json(values));
    if (auto error = first_difference(control.rank_text(control.world().rank), own, rank0)) throw *error;
  }
  control.barrier(key);
}

}  // namespace moraine
