// The files that checkpoints and adapters are made of, and what folders hold that are none or hold other formats.
#pragma once

#include <filesystem>

#include "base/error.h"

namespace moraine {

enum class FolderPart { kConfig, kTokenizer, kAdapterConfig, kAdapterWeights };

// The path of that file of `folder`: config.json, tokenizer.json, adapter_config.json or adapter_model.safetensors.
// Throws an input error when it is not there, which says what was found instead and how to mend it: a folder of the
// Hub's cache, a name of the Hub, weights or a tokenizer in another format; and when the file is a Git LFS pointer.
std::filesystem::path find_in_folder(const std::filesystem::path& folder, FolderPart part);

// There is no such folder. A name that the Hub may have is said to be none of a folder here.
Error no_such_folder(const std::filesystem::path& folder);

// The folder does not hold what it should (`what`: "holds no config.json"), with a hint at what it holds instead.
Error not_in_folder(const std::filesystem::path& folder, FolderPart part, const std::string& what);

// The folder holds no weights that can be read (`what` says which are looked for), with a hint at those of other
// formats.
Error no_weights_in_folder(const std::filesystem::path& folder, const std::string& what);

}  // namespace moraine
