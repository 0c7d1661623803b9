#include "models/output_head.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "models/config_fields.h"

namespace moraine {
namespace {

constexpr char kHeadSlot[] = "lm_head.weight", kEmbeddingSlot[] = "model.embed_tokens.weight";

}  // namespace

bool has_own_head(bool tie_word_embeddings, const std::string& tensor, const StoredDtype& stored) {
  return !tie_word_embeddings || stored(tensor).has_value();
}

const char* output_head_slot(const ImageView& root) { return root.has(kHeadSlot) ? kHeadSlot : kEmbeddingSlot; }

const ParamSpec* own_head(const ImageSpec& root) {
  const auto found = std::find_if(root.params.begin(), root.params.end(),
                                  [](const ParamSpec& param) { return param.name == kHeadSlot; });
  return found == root.params.end() ? nullptr : &*found;
}

bool ties_head(const ModelLayout& layout) { return !own_head(layout.root_spec(no_checkpoint())); }

void warn_of_stored_head(const HfConfig& config, const ImageSpec& root) {
  const ParamSpec* head = own_head(root);
  if (!head || !tie_word_embeddings(config)) return;
  log_warning(fmt::format(
      "{}: tie_word_embeddings is true, but the checkpoint stores {} too: that is the output head, not the embedding "
      "(as in transformers 5; set tie_word_embeddings to false to silence this)",
      config.where(), head->sources.front().name));
}

}  // namespace moraine
