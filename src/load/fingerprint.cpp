#include "load/fingerprint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include "base/file.h"
#include "formats/checkpoint_index.h"

namespace moraine {

std::string hash_text(std::string_view text) {
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string checkpoint_fingerprint(const std::filesystem::path& folder) {
  std::string text = read_text_file(folder / "config.json");
  for (const SafetensorsHeader& file : read_checkpoint_index(folder).files) {
    text += fmt::format("\n{} {}", file.path.filename().string(), file.file_size);
    for (const SafetensorsEntry& entry : file.entries)
      text += fmt::format("\n{} {} {} {}", entry.name, dtype_name(entry.dtype), fmt::join(entry.shape, ","), entry.offset);
  }
  return hash_text(text);
}

}  // namespace moraine
