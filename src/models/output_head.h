// The output head: a matrix of its own, or the embedding's where both are tied.
#pragma once

#include <string>

#include "config/hf_config.h"
#include "models/model_layout.h"
#include "parallel/weight_store.h"

namespace moraine {

// Whether the root image has a slot for the head, stored as `tensor`. With tie_word_embeddings it is the embedding's,
// but a head that is stored all the same is the head: transformers ties the two only where they are equal, and then it
// makes no difference.
bool has_own_head(bool tie_word_embeddings, const std::string& tensor, const StoredDtype& stored);

// The root's slot that holds the head.
const char* output_head_slot(const ImageView& root);

// The head's parameter, null where the root has none of its own: it is the embedding's.
const ParamSpec* own_head(const ImageSpec& root);
// Whether config.json ties the head to the embedding.
bool ties_head(const ModelLayout& layout);

// One line to the user where config.json ties the head, but `root` has one of its own. For one rank to call.
void warn_of_stored_head(const HfConfig& config, const ImageSpec& root);

}  // namespace moraine
