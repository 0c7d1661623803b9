# Finds torch: MORAINE_TORCH_DIR, else CMAKE_PREFIX_PATH, else the package in the project's own .venv (scripts/setup.sh).
# Gives the targets moraine_torch (headers and libraries) and moraine_pch (the one precompiled header of all torch code).
if(MORAINE_TORCH_DIR)
  list(PREPEND CMAKE_PREFIX_PATH ${MORAINE_TORCH_DIR} ${MORAINE_TORCH_DIR}/share/cmake/Torch)
else()
  file(GLOB venv_torch ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  list(APPEND CMAKE_PREFIX_PATH ${venv_torch})
endif()
find_package(Torch QUIET)
if(NOT Torch_FOUND)
  message(FATAL_ERROR "torch was not found: run scripts/setup.sh, or pass -DMORAINE_TORCH_DIR=<libtorch or site-packages/torch>")
endif()
if(Torch_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "torch ${Torch_VERSION} is too old: 2.11 or later is needed")
endif()
message(STATUS "torch ${Torch_VERSION} in ${TORCH_INSTALL_PREFIX}")

add_library(moraine_torch INTERFACE)
target_include_directories(moraine_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
target_link_libraries(moraine_torch INTERFACE ${TORCH_LIBRARIES})
# c10d's headers hide ProcessGroupGloo without this; the wheel's libraries export it (src/dist/gloo_declarations).
target_compile_definitions(moraine_torch INTERFACE USE_C10D_GLOO USE_DISTRIBUTED)
# NCCL's process group, in a torch that has CUDA. Its headers lie beside torch where pip installed both.
if(MORAINE_CUDA)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${TORCH_INSTALL_PREFIX}/../nvidia/nccl/include)
  find_path(CUDA_RUNTIME_INCLUDE_DIR cuda_runtime_api.h
    HINTS ${TORCH_INSTALL_PREFIX}/../nvidia/cu13/include ${TORCH_INSTALL_PREFIX}/../nvidia/cuda_runtime/include /usr/local/cuda/include)
  if(NOT NCCL_INCLUDE_DIR OR NOT CUDA_RUNTIME_INCLUDE_DIR)
    message(FATAL_ERROR "MORAINE_CUDA needs nccl.h and cuda_runtime_api.h: pass -DNCCL_INCLUDE_DIR= and -DCUDA_RUNTIME_INCLUDE_DIR=")
  endif()
  target_include_directories(moraine_torch SYSTEM INTERFACE ${NCCL_INCLUDE_DIR} ${CUDA_RUNTIME_INCLUDE_DIR})
  target_compile_definitions(moraine_torch INTERFACE USE_C10D_NCCL)
endif()
# torch's include folder brings a newer fmt than Debian's library: its headers alone serve the code that includes torch.
target_compile_definitions(moraine_torch INTERFACE FMT_HEADER_ONLY=1)

file(WRITE ${CMAKE_BINARY_DIR}/pch.cpp "")
add_library(moraine_pch STATIC ${CMAKE_BINARY_DIR}/pch.cpp)
target_link_libraries(moraine_pch PUBLIC moraine_torch fmt::fmt nlohmann_json::nlohmann_json Threads::Threads)
target_compile_options(moraine_pch PRIVATE -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare)
target_precompile_headers(moraine_pch PRIVATE
  <algorithm> <array> <cstdint> <functional> <map> <memory> <optional> <span> <string> <string_view> <vector>
  <fmt/format.h> <fmt/ranges.h> <nlohmann/json.hpp>
  <ATen/ATen.h> <torch/csrc/autograd/custom_function.h> <torch/csrc/autograd/autograd.h>)
