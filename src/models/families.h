// The families that are descriptions: each reads config.json into a Decoder, in a file of its own. models/registry.cpp
// lists them.
#pragma once

#include <string>

#include "models/decoder.h"

namespace moraine {

// `dtype` as in the recipe: auto | bfloat16 | float32. Each throws an input error that names the key for what is
// missing, impossible or not supported.
Decoder describe_qwen3_moe(const HfConfig& config, DtypeChoice dtype);
Decoder describe_qwen3_5_moe(const HfConfig& config, DtypeChoice dtype);
Decoder describe_mixtral(const HfConfig& config, DtypeChoice dtype);
Decoder describe_olmoe(const HfConfig& config, DtypeChoice dtype);
Decoder describe_glm4_moe(const HfConfig& config, DtypeChoice dtype);
Decoder describe_dots1(const HfConfig& config, DtypeChoice dtype);
Decoder describe_solar_open(const HfConfig& config, DtypeChoice dtype);
Decoder describe_minimax_m2(const HfConfig& config, DtypeChoice dtype);
Decoder describe_qwen3_next(const HfConfig& config, DtypeChoice dtype);
Decoder describe_qwen2_moe(const HfConfig& config, DtypeChoice dtype);
Decoder describe_deepseek_v3(const HfConfig& config, DtypeChoice dtype);
Decoder describe_glm4_moe_lite(const HfConfig& config, DtypeChoice dtype);
Decoder describe_ernie4_5_moe(const HfConfig& config, DtypeChoice dtype);

}  // namespace moraine
