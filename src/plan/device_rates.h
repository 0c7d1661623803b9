// What devices can do, as one table: memory, arithmetic, links. Step times are predicted from these figures alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/operator_count.h"

namespace moraine {

// Rates are those that the maker states, dense, in one direction, per second; `…_part` is what the program is taken to
// reach of them.
struct DeviceRates {
  std::string name;  // --device
  std::string says;  // who states the figures
  bool is_gpu = true;
  uint64_t memory = 0;       // bytes that one process can use; 0: not known
  uint64_t host_memory = 0;  // bytes of the host's memory for each rank; 0: not known
  double half_flops = 0;     // bf16
  double fp8_flops = 0;      // not used: FP8 weights are multiplied in bf16
  double float_flops = 0;    // fp32, no TF32
  double memory_rate = 0;    // bytes
  double nvlink = 0;         // bytes between ranks of a node, for each rank
  double network = 0;        // bytes between nodes, for each rank
  double pcie = 0;           // bytes from the host's memory, for each rank
  double launch = 0;         // seconds of the host for one kernel

  double product_part = 1, grouped_part = 1, attention_part = 1, float_part = 1, memory_part = 1, link_part = 1;

  // Memory of the device that no tensor has.
  uint64_t context = 0;        // CUDA's, with the kernels that are loaded, and cuBLAS's workspace
  uint64_t communicator = 0;   // of NCCL, for each group of several ranks
  uint64_t exchange_peer = 0;  // and for each other rank of the node in a group that exchanges all to all

  double flops_reached(Product product) const;  // per second
};

// The devices that --device names.
const std::vector<DeviceRates>& known_devices();

// "h200", or with figures of one's own "h200,pcie=25GB/s,network=25GB/s,host=128GiB,launch=8us"; the keys are those of
// rate_keys(). Throws input errors that name the flag.
DeviceRates parse_device(const std::string& flag, const std::string& text);

// "memory", "bf16", … in the order of the fields.
std::vector<std::string> rate_keys();

}  // namespace moraine
