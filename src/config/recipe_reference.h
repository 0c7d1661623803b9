// What a recipe may say, for readers and editors: `moraine recipe`, docs/recipe.md, a JSON schema.
#pragma once

#include <string>

#include "base/json.h"

namespace moraine {

// All keys, or those of a section, or one: a line with the default and what the key takes, and a line with what it
// means. `key` is empty, "section" or "section.key"; throws an input error with the nearest key for one that is not
// known.
std::string recipe_text(const std::string& key);

// docs/recipe.md.
std::string recipe_markdown();

// JSON schema (draft 2020-12) of a recipe file. Rules that span keys are not in it.
OrderedJson recipe_schema();

}  // namespace moraine
