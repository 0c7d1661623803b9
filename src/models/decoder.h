// A pre-norm decoder whose layers are a mixer and a feed-forward block: what most families are, each by its description
// alone.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/blocks/norm.h"

namespace moraine {

struct DecoderLayer {
  std::shared_ptr<const Block> mixer, feed_forward;  // layers of one kind share theirs
};

// The whole of a family, read from config.json.
struct Decoder {
  int64_t vocab_size = 0, hidden_size = 0;
  double norm_eps = 1e-6;
  NormKind norm_kind = NormKind::kPlain;
  std::vector<DecoderLayer> layers;
  bool tie_word_embeddings = false;
  StoredAs stored;  // names.layers is set from model_prefixes
  // Before "embed_tokens.weight", "layers.3…" and "norm.weight" in the files; the first where no checkpoint says which.
  std::vector<std::string> model_prefixes{"model."};
  // Beginnings or, after "*", ends of tensors that are not read, and why.
  std::vector<std::pair<std::string, std::string>> skipped = {};
};

std::unique_ptr<ModelLayout> make_decoder_layout(Decoder decoder);
std::unique_ptr<Model> make_decoder_model(Decoder decoder);

}  // namespace moraine
