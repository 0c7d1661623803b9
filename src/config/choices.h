// The recipe keys that take one of a few words, as types, and the words.
#pragma once

#include <array>
#include <cstddef>

namespace moraine {

// words_of(Enum) gives the words of an enumeration in the order of its enumerators, which count from 0.

enum class DtypeChoice { kAuto, kBFloat16, kFloat32 };  // model.dtype
constexpr auto words_of(DtypeChoice) { return std::to_array<const char*>({"auto", "bfloat16", "float32"}); }

// model.base_format: what quantised weights are in memory.
enum class BaseFormat {
  kStored,    // as they are stored, with their scales
  kBFloat16,  // dequantised while they are read
};
constexpr auto words_of(BaseFormat) { return std::to_array<const char*>({"stored", "bfloat16"}); }

enum class DataFormatChoice { kAuto, kMessages, kShareGpt, kAlpaca, kPromptCompletion, kText, kTokens };  // data.format
constexpr auto words_of(DataFormatChoice) {
  return std::to_array<const char*>({"auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "tokens"});
}

// data.truncation: what becomes of a row that is longer than data.max_length.
enum class Truncation {
  kError,  // it is a bad row
  kRight,  // its end is cut off
  kLeft,   // its beginning is cut off
  kDrop,   // it is left out
};
constexpr auto words_of(Truncation) { return std::to_array<const char*>({"error", "right", "left", "drop"}); }

enum class LossOn { kAssistant, kLast, kAll };  // data.loss_on
constexpr auto words_of(LossOn) { return std::to_array<const char*>({"assistant", "last", "all"}); }

// data.turns: how many rows a conversation makes.
enum class Turns {
  kTogether,  // one: a single rendering, in which all its turns are trained
  kEach,      // one for each assistant turn, rendered as the last of its own conversation
};
constexpr auto words_of(Turns) { return std::to_array<const char*>({"together", "each"}); }

enum class OnBadRows { kError, kSkip };  // data.on_bad_rows
constexpr auto words_of(OnBadRows) { return std::to_array<const char*>({"error", "skip"}); }

// mesh.offload: which base weights stay in the host's memory and are copied to the device when they are used.
enum class Offload { kNone, kExperts, kAll, kAuto };  // auto: decided before the run begins
constexpr auto words_of(Offload) { return std::to_array<const char*>({"none", "experts", "all", "auto"}); }

// load.mode: who reads the checkpoint.
enum class LoadMode {
  kDirect,  // every rank reads its own bytes; nothing travels
  kNode,    // one rank of each node reads what the node needs, once, and passes it on within the node
  kRank0,   // rank 0 alone sees the files
};
constexpr auto words_of(LoadMode) { return std::to_array<const char*>({"direct", "node", "rank0"}); }

// load.node_transport: how bytes get from the reading rank to the others.
enum class Transport {
  kAuto,          // shared memory where all ranks of the group can map it, else collectives
  kCollective,    // one scatter per chunk
  kPointToPoint,  // a send and a receive per chunk and rank, for backends without collectives in subgroups
  kSharedMemory,  // a ring of buffers that the ranks of one machine map
};
constexpr auto words_of(Transport) { return std::to_array<const char*>({"auto", "collective", "p2p", "shm"}); }

// load.verify: what is proven after loading.
enum class Verify {
  kFull,       // every byte, by another rank that reads it again
  kPlacement,  // shards and experts are where the plan puts them
  kOff,
};
constexpr auto words_of(Verify) { return std::to_array<const char*>({"full", "placement", "off"}); }

enum class Scheduler { kCosine, kLinear, kConstant };  // train.scheduler
constexpr auto words_of(Scheduler) { return std::to_array<const char*>({"cosine", "linear", "constant"}); }

// train.recompute: what a step keeps of a layer for its backward pass.
enum class Recompute {
  kFull,  // the layer's input; the layer runs again in the backward pass
  kNone,  // all activations
  kAuto,  // decided before the run begins
};
constexpr auto words_of(Recompute) { return std::to_array<const char*>({"full", "none", "auto"}); }

// adapter.experts: which factors the experts of a layer have.
enum class ExpertFactors {
  kEach,         // each its own
  kSharedOuter,  // one A of gate and up and one B of down for all, the others its own
};
constexpr auto words_of(ExpertFactors) { return std::to_array<const char*>({"each", "shared_outer"}); }

// save.layouts, and what export writes: which layout of an adapter.
enum class SaveLayout {
  kPeft,      // PEFT's own, of 0.19.1 or later
  kPeft0190,  // of PEFT 0.18 to 0.19.0
  kPerExpert,
  kSharedOuter,
  kVllm,  // the one that the server reads of the family
  kSglang,
};
constexpr auto words_of(SaveLayout) {
  return std::to_array<const char*>({"peft", "peft-0.19.0", "per-expert", "shared-outer", "vllm", "sglang"});
}

enum class BackendChoice { kAuto, kGloo, kNccl };  // dist.backend
constexpr auto words_of(BackendChoice) { return std::to_array<const char*>({"auto", "gloo", "nccl"}); }

enum class DeviceChoice { kAuto, kCpu, kCuda };  // dist.device
constexpr auto words_of(DeviceChoice) { return std::to_array<const char*>({"auto", "cpu", "cuda"}); }

// The word that a recipe writes for `choice`.
template <typename Enum>
constexpr const char* word_of(Enum choice) {
  return words_of(choice)[static_cast<std::size_t>(choice)];
}

}  // namespace moraine
