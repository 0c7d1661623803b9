#include "checkpoint/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "base/workers.h"
#include "checkpoint/fingerprint.h"
#include "formats/checkpoint_index.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

// A run of bytes with a hash of its own.
struct Part {
  std::string name;  // empty: the header, or the whole of a file that holds no tensors
  uint64_t offset = 0, nbytes = 0;
  std::string hash;
};

struct HashedFile {
  std::string name;
  uint64_t size = 0;
  bool has_tensors = false;
  std::vector<Part> parts;
};

// Calls work(file, part) for every part, from several threads. `open` is null for a file that cannot be opened.
template <typename Files, typename Work>
void for_each_part(const fs::path& folder, Files& files, int num_threads, const Work& work) {
  struct Item {
    size_t file, part;
  };
  std::vector<std::unique_ptr<File>> open;
  std::vector<Item> items;
  for (size_t f = 0; f < files.size(); ++f) {
    open.push_back(std::make_unique<File>(folder / files[f].name));
    for (size_t p = 0; p < files[f].parts.size(); ++p) items.push_back({f, p});
  }
  for_each_item(items.size(), num_threads, [&](size_t i) { work(items[i].file, items[i].part, *open[items[i].file]); });
}

std::vector<HashedFile> files_of(const fs::path& folder, const fs::path& manifest) {
  std::vector<HashedFile> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || name.starts_with(".") || fs::equivalent(entry.path(), manifest, error)) continue;
    if (!is_utf8(name))
      throw input_error(entry.path().string(), "its name is not UTF-8, and so no manifest can hold it",
                        "rename the file");
    HashedFile file{name, entry.file_size(), name.ends_with(".safetensors"), {}};
    if (file.has_tensors) {
      const SafetensorsHeader header = read_safetensors_header(entry.path());
      file.parts.push_back({"", 0, header.data_offset, ""});
      for (const SafetensorsEntry& e : header.entries) file.parts.push_back({e.name, e.offset, e.nbytes, ""});
    } else {
      file.parts.push_back({"", 0, file.size, ""});
    }
    files.push_back(std::move(file));
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return files;
}

OrderedJson to_json(const std::vector<HashedFile>& files) {
  OrderedJson json{{"format", "moraine hashes"}, {"version", 1}, {"hash", "XXH3-128"}, {"files", OrderedJson::array()}};
  for (const HashedFile& file : files) {
    OrderedJson parts = OrderedJson::array();
    for (const Part& part : file.parts) parts.push_back({part.name, part.offset, part.nbytes, part.hash});
    json["files"].push_back(
        {{"name", file.name}, {"size", file.size}, {"tensors", file.has_tensors}, {"parts", std::move(parts)}});
  }
  return json;
}

std::vector<HashedFile> read_manifest(const fs::path& manifest) {
  const OrderedJson json = parse_ordered_json(read_text_file(manifest), manifest.string());
  try {
    if (json.at("format") != "moraine hashes" || json.at("version") != 1) throw std::runtime_error("unknown");
    std::vector<HashedFile> files;
    for (const OrderedJson& f : json.at("files")) {
      HashedFile& file = files.emplace_back();
      file.name = f.at("name");
      file.size = f.at("size");
      file.has_tensors = f.at("tensors");
      for (const OrderedJson& p : f.at("parts"))
        file.parts.push_back({p.at(0), p.at(1).get<uint64_t>(), p.at(2).get<uint64_t>(), p.at(3)});
      if (fs::path(file.name).filename() != file.name) throw std::runtime_error("a path");
    }
    return files;
  } catch (const std::exception&) {
    throw input_error(manifest.string(), "is no manifest of hashes", "moraine inspect MODEL_DIR --hash writes one");
  }
}

ManifestTotals totals_of(const std::vector<HashedFile>& files) {
  ManifestTotals totals;
  totals.files = files.size();
  for (const HashedFile& file : files) {
    totals.bytes += file.size;
    totals.tensors += file.has_tensors ? file.parts.size() - 1 : 0;
  }
  return totals;
}

}  // namespace

ManifestTotals write_manifest(const fs::path& folder, const fs::path& manifest, int num_threads) {
  read_checkpoint_index(folder);  // a folder that is no checkpoint gets no manifest
  std::vector<HashedFile> files = files_of(folder, manifest);
  for_each_part(folder, files, num_threads, [&](size_t f, size_t p, const File& file) {
    Part& part = files[f].parts[p];
    part.hash = hash_range(file, part.offset, part.nbytes);
  });
  write_file_atomic(manifest, to_json(files).dump() + "\n");
  return totals_of(files);
}

std::vector<std::string> check_manifest(const fs::path& folder, const fs::path& manifest, int num_threads,
                                        ManifestTotals& totals) {
  std::vector<HashedFile> files = read_manifest(manifest);
  totals = totals_of(files);
  std::vector<std::string> differences;
  std::erase_if(files, [&](const HashedFile& file) {
    std::error_code error;
    const uint64_t size = fs::file_size(folder / file.name, error);
    if (error)
      differences.push_back(file.name + ": is missing");
    else if (size != file.size)
      differences.push_back(fmt::format("{}: has {} bytes, not {}", file.name, size, file.size));
    return error || size != file.size;
  });
  std::vector<std::vector<char>> differs;
  for (const HashedFile& file : files) differs.emplace_back(file.parts.size(), 0);
  for_each_part(folder, files, num_threads, [&](size_t f, size_t p, const File& file) {
    const Part& part = files[f].parts[p];
    differs[f][p] = hash_range(file, part.offset, part.nbytes) != part.hash;
  });
  for (size_t f = 0; f < files.size(); ++f) {
    for (size_t p = 0; p < files[f].parts.size(); ++p) {
      if (!differs[f][p]) continue;
      const std::string& tensor = files[f].parts[p].name;
      const std::string what = !tensor.empty()        ? "tensor " + tensor
                               : files[f].has_tensors ? "the header"
                                                      : "its content";
      differences.push_back(files[f].name + ": " + what + " differs");
    }
  }
  std::sort(differences.begin(), differences.end());
  return differences;
}

}  // namespace moraine
