#include "report/run_record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "report/run_report.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::system_clock;

constexpr uint64_t kMostBytes = 64 << 20;    // of run.json
constexpr uint64_t kQuicklyRead = 16 << 20;  // of metrics.jsonl: about 60,000 steps, half a second

std::string iso_text(Clock::time_point time) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(Clock::to_time_t(time)));
}

// Those of the folder's run.json; none when there is no such file, or none that can be read.
OrderedJson earlier_sessions(const fs::path& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return OrderedJson::array();
  try {
    const OrderedJson facts = parse_ordered_json(read_text_file(file, kMostBytes), file.string());
    if (facts.is_object() && facts.contains("sessions") && facts["sessions"].is_array()) return facts["sessions"];
  } catch (const Error&) {
    log_warning(file.string() + ": cannot be read; earlier sessions of this run are forgotten");
  }
  return OrderedJson::array();
}

// A run that has come so far does not fail for its report. "" or what went wrong.
template <typename Write>
std::string failure_of(const fs::path& folder, const Write& write) {
  try {
    write();
    return "";
  } catch (const Error& error) {
    return fmt::format("the report was not written: {}", error.what());
  } catch (const std::exception& error) {
    return fmt::format("the report was not written: {}: {}", folder.string(), error.what());
  }
}

}  // namespace

std::optional<RunFacts> recorded_facts(const fs::path& folder) try {
  const OrderedJson facts =
      parse_ordered_json(read_text_file(folder / "run.json", kMostBytes), (folder / "run.json").string());
  return RunFacts::from_json(facts.at("resume"));
} catch (const Error&) {
  return std::nullopt;
} catch (const Json::exception&) {
  return std::nullopt;
}

RunRecord::RunRecord(const fs::path& folder, OrderedJson facts, const RunFacts& resume, Clock::time_point started,
                     int64_t first_step, const std::string& resumed_from)
    : folder_(folder), facts_(std::move(facts)), started_(started) {
  facts_["resume"] = resume.to_json();
  OrderedJson sessions = first_step > 0 ? earlier_sessions(folder / "run.json") : OrderedJson::array();
  OrderedJson session{{"started", iso_text(started)},
                      {"moraine", facts_["moraine"]},
                      {"ranks", facts_["mesh"]["ranks"]},
                      {"first_step", first_step}};
  if (!resumed_from.empty()) {
    const fs::path within = fs::path(resumed_from).lexically_proximate(folder);
    session["resumed_from"] = *within.begin() == ".." ? resumed_from : within.string();
  }
  sessions.push_back(session);
  facts_["sessions"] = sessions;
  update(first_step);
  facts_["sessions"].back()["end"] = nullptr;
  write();
}

void RunRecord::update(int64_t steps) {
  OrderedJson& session = facts_["sessions"].back();
  const Clock::time_point now = Clock::now();
  session["updated"] = iso_text(now);
  session["seconds"] = std::max(0.0, std::chrono::duration<double>(now - started_).count());
  session["step"] = steps;
}

void RunRecord::write() const {
  write_file_atomic(folder_ / "run.json", facts_.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

void RunRecord::snapshot(int64_t steps) {
  const std::string failure = failure_of(folder_, [&] {
    update(steps);
    write();
    if (fs::file_size(folder_ / "metrics.jsonl") <= kQuicklyRead) write_run_report(folder_);
  });
  if (!failure.empty()) log_warning(failure);
}

std::string RunRecord::end(int64_t steps, const std::string& why) {
  const std::string failure = failure_of(folder_, [&] {
    update(steps);
    facts_["sessions"].back()["end"] = why;
    write();
    write_run_report(folder_);
  });
  if (failure.empty()) return "Report: " + (folder_ / "report.html").string();
  log_warning(failure);
  return "No report: see the warning";
}

}  // namespace moraine
