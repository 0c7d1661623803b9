#include "models/config_fields.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "base/text.h"

namespace moraine {
namespace {

int64_t within(const HfConfig& config, const std::string& key, int64_t value, int64_t most) {
  require(config, value >= 1 && value <= most, fmt::format("{} is {}, it must be between 1 and {}", key, value, most));
  return value;
}

// YaRN's attention temperature (https://arxiv.org/abs/2309.00071, section 3.4).
double yarn_mscale(double factor, double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1.0; }

// transformers' attention factor where the configuration says none.
double yarn_attention_factor(const HfConfig& rope, double factor) {
  const double m = rope.number("mscale", 0), all_dim = rope.number("mscale_all_dim", 0);
  return m != 0 && all_dim != 0 ? yarn_mscale(factor, m) / yarn_mscale(factor, all_dim) : yarn_mscale(factor, 1);
}

}  // namespace

DType compute_dtype(const HfConfig& config, DtypeChoice wanted) {
  if (wanted == DtypeChoice::kFloat32) return DType::kF32;
  if (wanted == DtypeChoice::kBFloat16) return DType::kBF16;
  const DType said = config.dtype().value_or(DType::kF32);
  if (said == DType::kF16) {
    throw input_error(config.where(), "float16 weights overflow in training", "set model.dtype: bfloat16 or float32");
  }
  return said;
}

void require(const HfConfig& config, bool ok, const std::string& what) {
  if (!ok) throw input_error(config.where(), what, "not a configuration that can be computed");
}

int64_t positive(const HfConfig& config, const std::string& key, int64_t most) {
  return within(config, key, config.integer(key), most);
}

int64_t positive_or(const HfConfig& config, const std::string& key, int64_t otherwise, int64_t most) {
  return within(config, key, config.integer(key, otherwise), most);
}

int64_t natural_or(const HfConfig& config, const std::string& key, int64_t otherwise, int64_t most) {
  const int64_t value = config.integer(key, otherwise);
  require(config, value >= 0 && value <= most, fmt::format("{} is {}, it must be between 0 and {}", key, value, most));
  return value;
}

int64_t layer_count(const HfConfig& config) { return positive(config, "num_hidden_layers", kMaxLayers); }

void check_experts(const HfConfig& config, int64_t num_layers, const std::string& key, int64_t num_experts) {
  require(config, num_layers * num_experts <= kMaxExpertsInAll,
          fmt::format("num_hidden_layers {} with {} {} are more than {} experts in all", num_layers, key, num_experts,
                      kMaxExpertsInAll));
}

double positive_number(const HfConfig& config, const std::string& key, double otherwise) {
  const double value = config.number(key, otherwise);
  require(config, std::isfinite(value) && value > 0, fmt::format("{} is {}, it must be above 0", key, value));
  return value;
}

bool tie_word_embeddings(const HfConfig& config) {
  constexpr const char* kKey = "tie_word_embeddings";
  if (!config.has("text_config")) return config.boolean(kKey, false);
  const HfConfig text = config.object("text_config");
  const bool tied = config.boolean(kKey, text.boolean(kKey, false));
  require(config, text.boolean(kKey, tied) == tied,
          fmt::format("{} is one thing here and another in text_config", kKey));
  return tied;
}

double rope_theta(const HfConfig& config, const HfConfig& rope) {
  const HfConfig& said = rope.has("rope_theta") ? rope : config;
  const double theta = said.number("rope_theta");
  require(said, std::isfinite(theta) && theta > 1, fmt::format("rope_theta is {}, it must be above 1", theta));
  return theta;
}

void read_rope_scaling(const HfConfig& config, const HfConfig& rope, RopeSpec& into) {
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (type != "default" && type != "yarn") {
    throw input_error(config.where(), fmt::format("rope_type {} is not supported", quote_text(type)),
                      "default and yarn are; without scaling the model trains at its native context length");
  }
  into.yarn = type == "yarn";
  if (!into.yarn) return;
  into.original_max_position_embeddings = rope.has("original_max_position_embeddings")
                                              ? positive(rope, "original_max_position_embeddings")
                                              : positive(config, "max_position_embeddings");
  require(rope, rope.has("factor"), "missing key 'factor'");
  into.factor = positive_number(rope, "factor", 1);
  into.beta_fast = positive_number(rope, "beta_fast", 32);
  into.beta_slow = positive_number(rope, "beta_slow", 1);
  into.truncate = rope.boolean("truncate", true);
  into.attention_factor = positive_number(rope, "attention_factor", yarn_attention_factor(rope, into.factor));
  const double all_dim = rope.number("mscale_all_dim", 0), mscale = yarn_mscale(into.factor, all_dim);
  if (all_dim != 0) into.score_factor = mscale * mscale;
}

int64_t rotary_dim(const HfConfig& config, int64_t head_dim, double partial_rotary_factor) {
  const double dim = std::floor(static_cast<double>(head_dim) * partial_rotary_factor);
  require(config, partial_rotary_factor != 1 || head_dim % 2 == 0, fmt::format("head_dim {} must be even", head_dim));
  require(config, partial_rotary_factor <= 1 && dim >= 2 && std::fmod(dim, 2) == 0,
          fmt::format("partial_rotary_factor {} of head_dim {} is {} dims, RoPE turns an even number of at least 2",
                      partial_rotary_factor, head_dim, dim));
  return static_cast<int64_t>(dim);
}

}  // namespace moraine
