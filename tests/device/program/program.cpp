// The whole program with the test device in the place of a GPU: with dist.device=cuda its commands compute there, ranks
// over Gloo. A wrong order of streams ends it.
#include "device/device_gloo.h"
#include "device/device_streams.h"
#include "device/test_device.h"
#include "distributed/collectives/backend_hook.h"
#include "distributed/collectives/device_hook.h"

int moraine_main(int argc, char** argv);  // the program's main (tests/CMakeLists.txt)

int main(int argc, char** argv) {
  using namespace moraine;
  testing_support::end_at_faults();
  set_device_hook(testing_support::registered_device());
  set_backend_hook(&testing_support::gloo_on_test_device);
  return moraine_main(argc, argv);
}
