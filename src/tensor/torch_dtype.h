// safetensors' element types as torch's, and back.
#pragma once

#include <c10/core/ScalarType.h>

#include "formats/dtype.h"

namespace moraine {

c10::ScalarType torch_dtype(DType dtype);  // asserts on kF4, which torch has no element type for
DType from_torch_dtype(c10::ScalarType dtype);

}  // namespace moraine
