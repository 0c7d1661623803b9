// --max-shard-size of the commands that write checkpoints.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "cli/cli.h"

namespace moraine {

inline uint64_t max_shard_bytes(const CommandArgs& args) {
  const auto bytes = parse_bytes(args.max_shard_size);
  if (!bytes || *bytes == 0) {
    throw input_error("--max-shard-size", quote_text(args.max_shard_size) + " is no size",
                      "for example 5GB, the default");
  }
  return *bytes;
}

}  // namespace moraine
