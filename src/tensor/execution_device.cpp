#include "tensor/execution_device.h"

namespace moraine {
namespace {

thread_local c10::Device planned_device = c10::kCPU;

}  // namespace

c10::Device execution_device(c10::Device device) { return device.is_meta() ? planned_device : device; }

PlannedDevice::PlannedDevice(c10::Device device) : before_(planned_device) { planned_device = device; }
PlannedDevice::~PlannedDevice() { planned_device = before_; }

}  // namespace moraine
