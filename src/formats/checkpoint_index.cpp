#include "formats/checkpoint_index.h"

#include <fmt/format.h>

#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/json_events.h"
#include "base/path.h"
#include "base/text.h"
#include "formats/folder_parts.h"

namespace moraine {

namespace fs = std::filesystem;

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// Where an index may point: a file below the folder.
bool stays_inside(const fs::path& name) {
  if (name.empty() || name.is_absolute()) return false;
  for (const fs::path& part : name) {
    if (part == "..") return false;
  }
  return true;
}

// The weight_map of an index: tensor → path of its file relative to the folder. All else in it is passed over.
class WeightMapReader : public JsonEvents {
 public:
  std::map<std::string, std::string> weight_map;
  bool found = false;

 protected:
  void on_key(std::string& name) override {
    if (depth_ == 1) {
      is_weight_map_ = name == "weight_map";
      if (is_weight_map_ && found) throw input_error(where(), "key 'weight_map' is given twice");
    } else if (depth_ == 2 && is_weight_map_) {
      const auto [place, inserted] = weight_map.try_emplace(std::move(name));
      if (!inserted) throw input_error(where(), fmt::format("key {} is given twice", quote_text(place->first)));
      entry_ = &*place;
    }
  }
  void on_begin(bool is_object) override {
    check_value();
    if (depth_ == 1 && is_weight_map_) found = is_object;
    if (depth_ == 0) is_object_ = is_object;
    ++depth_;
  }
  void on_end() override { --depth_; }
  void on_scalar(const Scalar&) override { check_value(); }
  void on_text(std::string& name) override {
    if (!in_weight_map()) return;
    const bool printable = name.find_first_of(std::string("\0\n\r", 3)) == name.npos;
    if (!printable || !stays_inside(name)) {
      throw input_error(where(),
                        fmt::format("weight_map: the file of tensor {} lies outside the folder: {}",
                                    quote_text(entry_->first), quote_text(name)),
                        "name files relative to the index, without '..'");
    }
    entry_->second = fs::path(name).lexically_normal().string();
  }

 private:
  bool in_weight_map() const { return depth_ == 2 && is_weight_map_ && found && is_object_; }
  void check_value() const {
    if (in_weight_map())
      throw input_error(where(), fmt::format("weight_map: {} does not name a file", quote_text(entry_->first)));
  }

  int depth_ = 0;
  bool is_object_ = false, is_weight_map_ = false;
  std::pair<const std::string, std::string>* entry_ = nullptr;
};

std::map<std::string, std::string> read_weight_map(const fs::path& index_path) {
  const std::string where = index_path.string();
  WeightMapReader reader;
  reader.read(read_text_file(index_path), where);
  if (!reader.found) throw input_error(where, "has no 'weight_map' object");
  if (reader.weight_map.empty()) throw input_error(where, "names no tensor");
  return std::move(reader.weight_map);
}

CheckpointIndex read_single_file(const fs::path& folder) {
  CheckpointIndex index{folder, {}, {}};
  index.files.push_back(read_safetensors_header(folder / kSingleFile));
  for (const SafetensorsEntry& entry : index.files[0].entries) index.tensors[entry.name] = {0, entry};
  return index;
}

CheckpointIndex read_indexed(const fs::path& folder) {
  const fs::path index_path = folder / kIndexFile;
  const std::map<std::string, std::string> weight_map = read_weight_map(index_path);

  std::map<std::string, int> file_numbers;  // sorted, so that every rank numbers the files alike
  for (const auto& [tensor, name] : weight_map) file_numbers[name] = 0;
  CheckpointIndex index{folder, {}, {}};
  for (auto& [name, number] : file_numbers) {
    if (!path_exists(folder / name)) {
      throw input_error((folder / name).string(), fmt::format("the file is missing, but {} names it", kIndexFile),
                        "download the checkpoint again");
    }
    number = static_cast<int>(index.files.size());
    index.files.push_back(read_safetensors_header(folder / name));
  }

  // Every file's tensors are looked at, those outside the weight_map too: a name in two files is a mistake.
  std::unordered_map<std::string_view, CheckpointTensor> found;
  for (size_t file = 0; file < index.files.size(); ++file) {
    for (const SafetensorsEntry& entry : index.files[file].entries) {
      auto [place, inserted] = found.try_emplace(entry.name, CheckpointTensor{static_cast<int>(file), entry});
      if (!inserted) {
        throw input_error(index.files[file].path.string(),
                          fmt::format("tensor {} lies in {} too", quote_text(entry.name),
                                      index.files[static_cast<size_t>(place->second.file)].path.filename().string()));
      }
    }
  }
  for (const auto& [tensor, name] : weight_map) {
    auto place = found.find(tensor);
    int file = file_numbers[name];
    if (place == found.end() || place->second.file != file) {
      throw input_error(index.files[static_cast<size_t>(file)].path.string(),
                        fmt::format("has no tensor {}, but {} says so", quote_text(tensor), kIndexFile),
                        "index and files are of different checkpoints, or a file is damaged");
    }
    index.tensors.emplace(tensor, std::move(place->second));
  }
  return index;
}

}  // namespace

const CheckpointTensor* CheckpointIndex::find(const std::string& name) const {
  auto place = tensors.find(name);
  return place == tensors.end() ? nullptr : &place->second;
}

uint64_t CheckpointIndex::total_bytes() const {
  uint64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.entry.nbytes;
  return total;
}

CheckpointIndex read_checkpoint_index(const fs::path& folder) {
  if (!is_folder(folder)) throw no_such_folder(folder);
  if (path_exists(folder / kSingleFile)) return read_single_file(folder);
  if (path_exists(folder / kIndexFile)) return read_indexed(folder);
  throw no_weights_in_folder(folder, fmt::format("holds neither {} nor {}", kSingleFile, kIndexFile));
}

}  // namespace moraine
