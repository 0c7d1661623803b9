#include "formats/folder_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "base/lfs_pointer.h"
#include "base/path.h"
#include "base/text.h"

namespace moraine {

namespace fs = std::filesystem;

namespace {

const char* file_of(FolderPart part) {
  switch (part) {
    case FolderPart::kConfig:
      return "config.json";
    case FolderPart::kTokenizer:
      return "tokenizer.json";
    case FolderPart::kAdapterConfig:
      return "adapter_config.json";
    case FolderPart::kAdapterWeights:
      return "adapter_model.safetensors";
  }
  return "";
}

// Sorted; none where the folder cannot be read.
std::vector<std::string> names_in_folder(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    names.push_back(entry->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool any_ends(const std::vector<std::string>& names, std::initializer_list<const char*> endings) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return std::any_of(endings.begin(), endings.end(), [&](const char* ending) { return name.ends_with(ending); });
  });
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// ORG/NAME, where no folder ORG is.
bool may_be_hub_name(const fs::path& path) {
  const std::string text = path.string();
  const size_t slash = text.find('/');
  if (slash == 0 || slash == text.npos || slash + 1 == text.size() || text.find('/', slash + 1) != text.npos)
    return false;
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.' || c == '/';
  });
  return plain && text[0] != '.' && !text.ends_with(".json") && !is_there(text.substr(0, slash));
}

// For a folder of the Hub's cache (models--ORG--NAME): which folder in it to name. "" for others.
std::string hint_at_snapshot(const fs::path& folder) {
  const fs::path snapshots = folder / "snapshots";
  if (!is_there(snapshots) || !(is_there(folder / "refs") || is_there(folder / "blobs"))) return "";
  std::vector<std::string> names = names_in_folder(snapshots);
  try {
    const std::string commit = read_text_file(folder / "refs" / "main", 256);
    const auto main = std::find(names.begin(), names.end(), commit.substr(0, commit.find_first_of(" \r\n")));
    if (main != names.end()) names = {*main};
  } catch (const Error&) {
    // Downloaded by another name than main.
  }
  if (names.empty()) return "it is a folder of the Hub's cache whose snapshots/ is empty: download the files again";
  return fmt::format("it is a folder of the Hub's cache: name its snapshot, {}", (snapshots / names[0]).string());
}

// The first folder in it that holds the file.
std::string hint_at_subfolder(const fs::path& folder, FolderPart part) {
  for (const std::string& name : names_in_folder(folder))
    if (is_there(folder / name / file_of(part))) return fmt::format("{} holds one: name it", (folder / name).string());
  return "";
}

constexpr const char* kSaveAgain =
    "pickled weights are not read; convert them to safetensors: load the model with transformers and write it "
    "by save_pretrained";

std::string hint_at_weights(const fs::path& folder) {
  const std::vector<std::string> names = names_in_folder(folder);
  if (any_ends(names, {".safetensors"}))
    return "an index says which file holds what: download model.safetensors.index.json too";
  if (any_ends(names, {".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"})) return kSaveAgain;
  if (any_ends(names, {".gguf"})) return "GGUF files are not read; take the release in safetensors";
  return "";
}

std::string hint_at(const fs::path& folder, FolderPart part) {
  if (const std::string hint = hint_at_snapshot(folder); !hint.empty()) return hint;
  const std::vector<std::string> names = names_in_folder(folder);
  switch (part) {
    case FolderPart::kConfig:
      if (any_ends(names, {".gguf"})) return "GGUF files are not read; take the release in safetensors";
      if (std::count(names.begin(), names.end(), "params.json"))
        return "the authors' own layout is not read; take the release for transformers";
      return hint_at_subfolder(folder, part);
    case FolderPart::kTokenizer:
      if (any_ends(names, {"tokenizer.model", "spiece.model", ".tiktoken", "vocab.json", "vocab.txt", "tekken.json"})) {
        return "its tokenizer is in another format; transformers writes tokenizer.json by "
               "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)";
      }
      return "";
    case FolderPart::kAdapterConfig: {
      const std::string hint = hint_at_subfolder(folder, part);
      return hint.empty() ? "a PEFT adapter is adapter_config.json and adapter_model.safetensors" : hint;
    }
    case FolderPart::kAdapterWeights:
      if (any_ends(names, {".safetensors"}))
        return "an adapter is read from that one file; load it with PEFT and write it by save_pretrained";
      if (any_ends(names, {".bin", ".pt", ".pth", ".ckpt"}))
        return "pickled weights are not read; convert them to safetensors: load the adapter with PEFT and write it by "
               "save_pretrained";
      if (any_ends(names, {".gguf"})) return "GGUF files are not read; take the adapter in safetensors";
      return "";
  }
  return "";
}

}  // namespace

Error no_such_folder(const fs::path& folder) {
  if (!may_be_hub_name(folder)) return input_error(folder.string(), "no such folder");
  return input_error(folder.string(), "no such folder, and nothing is downloaded from the Hub",
                     fmt::format("get it first: hf download {} --local-dir DIR, then name DIR", folder.string()));
}

Error not_in_folder(const fs::path& folder, FolderPart part, const std::string& what) {
  return input_error(folder.string(), what, hint_at(folder, part));
}

Error no_weights_in_folder(const fs::path& folder, const std::string& what) {
  const std::string hint = hint_at_snapshot(folder);
  return input_error(folder.string(), what, hint.empty() ? hint_at_weights(folder) : hint);
}

fs::path find_in_folder(const fs::path& folder, FolderPart part) {
  if (!path_exists(folder)) throw no_such_folder(folder);
  if (!is_folder(folder)) throw input_error(folder.string(), "is a file, not a folder");
  const fs::path file = folder / file_of(part);
  if (!path_exists(file)) throw not_in_folder(folder, part, fmt::format("holds no {}", file_of(part)));
  refuse_lfs_pointer(File(file));
  return file;
}

}  // namespace moraine
