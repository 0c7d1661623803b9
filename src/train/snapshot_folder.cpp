#include "train/snapshot_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/version.h"
#include "checkpoint/fingerprint.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "moraine snapshot";
constexpr int64_t kVersion = 1;
constexpr const char kPrefix[] = "step-";

// state.json ends with a hash of all before it, so a changed bit in it is found like one in the other files.
std::string hash_of_state(const OrderedJson& state) { return hash_text(state.dump(2)); }

// What is wrong with a file that state.json lists, or nothing.
std::string problem_of_file(const fs::path& folder, const OrderedJson& entry) {
  const std::string name = entry.at("name");
  std::error_code error;
  if (!fs::is_regular_file(folder / name, error)) return name + " is missing";
  const File file(folder / name);
  if (const uint64_t bytes = entry.at("bytes"); file.size() != bytes)
    return fmt::format("{} has {} bytes, not {}", name, file.size(), bytes);
  if (hash_file(file) != entry.at("xxh3_128").get<std::string>()) return name + ": its bytes have changed";
  return "";
}

// What is wrong with a snapshot, or nothing: `snapshot` is then filled.
std::string problem_of(const fs::path& folder, Snapshot& snapshot) try {
  std::error_code error;
  if (!fs::is_regular_file(folder / kSnapshotState, error)) return std::string(kSnapshotState) + " is missing";
  OrderedJson json = parse_ordered_json(read_text_file(folder / kSnapshotState), kSnapshotState);
  const std::string hash = json.at("hash");
  json.erase("hash");
  if (hash_of_state(json) != hash) return std::string(kSnapshotState) + ": its bytes have changed";
  if (json.at("format") == kFormat && json.at("version") == kVersion) {
    for (const OrderedJson& entry : json.at("files"))
      if (const std::string problem = problem_of_file(folder, entry); !problem.empty()) return problem;
  }
  snapshot = {folder, json.at("step"), std::move(json)};
  return "";
} catch (const Json::exception&) {
  return std::string(kSnapshotState) + ": is no state of a snapshot";
} catch (const Error& unreadable) {
  return unreadable.what();
}

void check_version(const Snapshot& snapshot) {
  if (snapshot.state.at("format") == kFormat && snapshot.state.at("version") == kVersion) return;
  throw input_error(snapshot.folder.string(), "was written by another version of moraine",
                    "use that version, or another save.dir");
}

}  // namespace

void write_snapshot_state(const fs::path& folder, int64_t step, const OrderedJson& state) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) names.push_back(fs::relative(entry.path(), folder).string());
  std::sort(names.begin(), names.end());
  OrderedJson json{{"format", kFormat}, {"version", kVersion}, {"moraine", kProgramVersion}, {"step", step}};
  json.update(state);
  json["files"] = OrderedJson::array();
  for (const std::string& name : names) {
    const File file(folder / name);
    json["files"].push_back({{"name", name}, {"bytes", file.size()}, {"xxh3_128", hash_file(file)}});
  }
  json["hash"] = hash_of_state(json);
  write_file_atomic(folder / kSnapshotState, json.dump(2) + "\n");
}

Snapshot open_snapshot(const fs::path& folder) {
  Snapshot snapshot;
  if (const std::string problem = problem_of(folder, snapshot); !problem.empty())
    throw input_error(folder.string(), "is no whole snapshot: " + problem);
  check_version(snapshot);
  return snapshot;
}

fs::path SnapshotFolder::path_of(int64_t step) const { return folder_ / fmt::format("{}{}", kPrefix, step); }

std::vector<int64_t> SnapshotFolder::steps() const {
  std::vector<int64_t> steps;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, none)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    const char *begin = name.data() + sizeof kPrefix - 1, *end = name.data() + name.size();
    int64_t step = -1;
    if (std::from_chars(begin, end, step).ptr == end && entry.path() == path_of(step)) steps.push_back(step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

bool SnapshotFolder::has_later(int64_t step) const {
  const std::vector<int64_t> all = steps();
  return std::any_of(all.begin(), all.end(), [&](int64_t other) {
    return other > step && std::find(damaged_.begin(), damaged_.end(), other) == damaged_.end();
  });
}

std::optional<Snapshot> SnapshotFolder::newest() const {
  damaged_.clear();
  for (const int64_t step : steps()) {
    Snapshot snapshot;
    std::string problem = problem_of(path_of(step), snapshot);
    if (problem.empty()) {
      check_version(snapshot);
      if (snapshot.step == step) return snapshot;
      problem = fmt::format("it is one of step {}", snapshot.step);
    }
    log_warning(fmt::format("{} is damaged and left out: {}", path_of(step).string(), problem));
    damaged_.push_back(step);
  }
  if (damaged_.empty()) return std::nullopt;
  throw input_error(folder_.string(), fmt::format("holds no whole snapshot: {} damaged", damaged_.size()),
                    "remove the folder to begin anew, or choose another save.dir");
}

void SnapshotFolder::remove_old(int64_t step, int64_t keep) const {
  std::erase(damaged_, step);  // written again
  for (const int64_t other : steps()) {
    if (other > step) continue;
    const bool is_damaged = std::find(damaged_.begin(), damaged_.end(), other) != damaged_.end();
    if (!is_damaged && keep-- > 0) continue;
    if (!remove_folder(path_of(other))) log_warning(fmt::format("{}: cannot be removed", path_of(other).string()));
  }
}

}  // namespace moraine
