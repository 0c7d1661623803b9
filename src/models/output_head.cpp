#include "models/output_head.h"

#include <fmt/format.h>

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

void warn_of_stored_head(const HfConfig& config, const ImageSpec& root) {
  if (!tie_word_embeddings(config)) return;
  for (const ParamSpec& param : root.params) {
    if (param.name != kHeadSlot) continue;
    log_warning(fmt::format(
        "{}: tie_word_embeddings is true, but the checkpoint stores {} too: that is the output head, not the embedding "
        "(as in transformers 5; set tie_word_embeddings to false to silence this)",
        config.where(), param.sources.front().name));
  }
}

}  // namespace moraine
