#include "models/blocks/read_delta_net.h"

#include <fmt/format.h>

#include "base/text.h"
#include "models/config_fields.h"

namespace moraine {

std::vector<bool> full_attention_layers(const HfConfig& text, std::optional<int64_t> default_interval) {
  const int64_t num_layers = layer_count(text);
  std::vector<bool> full;
  if (!text.has("layer_types")) {
    const char* key = "full_attention_interval";
    const int64_t interval = default_interval ? positive_or(text, key, *default_interval) : positive(text, key);
    for (int64_t layer = 1; layer <= num_layers; ++layer) full.push_back(layer % interval == 0);
    return full;
  }
  for (const std::string& name : text.texts("layer_types")) {
    require(text, name == "linear_attention" || name == "full_attention",
            fmt::format("layer_types: {} is neither linear_attention nor full_attention", quote_text(name)));
    full.push_back(name == "full_attention");
  }
  require(text, full.size() == static_cast<size_t>(num_layers),
          fmt::format("layer_types has {} entries, num_hidden_layers is {}", full.size(), num_layers));
  return full;
}

GatedDeltaNet read_delta_net(const HfConfig& text, const Decoder& decoder) {
  GatedDeltaNet linear;
  linear.hidden = decoder.hidden_size;
  linear.norm_eps = decoder.norm_eps;
  linear.key_heads = count(text, "linear_num_key_heads");
  linear.key_head_dim = width(text, "linear_key_head_dim");
  linear.value_heads = count(text, "linear_num_value_heads");
  linear.value_head_dim = width(text, "linear_value_head_dim");
  linear.conv_kernel = positive_or(text, "linear_conv_kernel_dim", 4, kMaxCount);
  require(text, linear.value_heads % linear.key_heads == 0, "linear_num_key_heads must divide linear_num_value_heads");
  return linear;
}

}  // namespace moraine
