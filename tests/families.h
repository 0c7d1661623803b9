// The families with goldens, and what tests may ask of each: tests/golden/families.json, which the Python tests and
// CMake read too.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/json.h"

namespace moraine::testing_support {

// Of this folder as it is now: MORAINE_TESTS_DIR of the environment, else where it was when this was compiled.
inline std::filesystem::path tests_folder() {
  const char* folder = std::getenv("MORAINE_TESTS_DIR");
  return folder ? folder : MORAINE_TESTS_DIR;
}

// {family: {"goldens": storages of tests/golden/FAMILY-STORAGE that came from transformers and PEFT, "curves": how far
// losses, gradient norms (relative) and the adapter after 12 steps may be from the reference's, …}}
inline const Json& families() {
  static const Json table = read_json_file(tests_folder() / "golden" / "families.json");
  return table;
}

// "qwen3_moe-fp32" and so on, of these storages; of all where none is given.
inline std::vector<std::string> golden_models(std::initializer_list<std::string> storages = {}) {
  std::vector<std::string> names;
  for (const auto& [family, facts] : families().items())
    for (const std::string storage : facts["goldens"])
      if (storages.size() == 0 || std::find(storages.begin(), storages.end(), storage) != storages.end())
        names.push_back(family + "-" + storage);
  return names;
}

// A test's name of a golden's.
inline std::string test_name(std::string golden) {
  std::replace(golden.begin(), golden.end(), '-', '_');
  return golden;
}

}  // namespace moraine::testing_support
