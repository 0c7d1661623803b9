// Short names for long inputs, to tell whether two ranks were given the same.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace moraine {

// XXH3-128 as 32 hexadecimal digits.
std::string hash_text(std::string_view text);

// Of config.json and of every tensor's name, dtype, shape and place in the checkpoint; not of the weights themselves.
std::string checkpoint_fingerprint(const std::filesystem::path& folder);

}  // namespace moraine
