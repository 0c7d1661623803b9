# Finds torch: MORAINE_TORCH_DIR, else CMAKE_PREFIX_PATH, else the package in the project's own .venv (scripts/setup.sh).
# Gives the targets moraine_torch (headers and libraries) and moraine_pch (the one precompiled header of all torch code).
#
# Headers and libraries are named here instead of by find_package(Torch): that of a CUDA torch wants a whole CUDA toolkit with its
# development files, of which nothing here needs more than headers, and pip installs those beside torch.
file(GLOB venv_torch ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
find_path(Torch_DIR TorchConfigVersion.cmake PATHS ${MORAINE_TORCH_DIR} ${CMAKE_PREFIX_PATH} ENV CMAKE_PREFIX_PATH ${venv_torch}
  PATH_SUFFIXES share/cmake/Torch Torch NO_DEFAULT_PATH)  # a prefix, or torch.utils.cmake_prefix_path
if(NOT Torch_DIR)
  message(FATAL_ERROR "torch was not found: run scripts/setup.sh, or pass -DMORAINE_TORCH_DIR=<libtorch or site-packages/torch>")
endif()
include(${Torch_DIR}/TorchConfigVersion.cmake)
if(PACKAGE_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "torch ${PACKAGE_VERSION} is too old: 2.11 or later is needed")
endif()
get_filename_component(TORCH_INSTALL_PREFIX ${Torch_DIR}/../../.. REALPATH)
message(STATUS "torch ${PACKAGE_VERSION} in ${TORCH_INSTALL_PREFIX}")

add_library(moraine_torch INTERFACE)
target_include_directories(moraine_torch SYSTEM INTERFACE ${TORCH_INSTALL_PREFIX}/include
  ${TORCH_INSTALL_PREFIX}/include/torch/csrc/api/include)
target_link_directories(moraine_torch INTERFACE ${TORCH_INSTALL_PREFIX}/lib)
target_link_libraries(moraine_torch INTERFACE torch_cpu c10)
target_link_options(moraine_torch INTERFACE -Wl,-rpath,${TORCH_INSTALL_PREFIX}/lib)
# c10d's headers hide ProcessGroupGloo without this; the wheel's libraries export it (src/distributed/gloo_declarations).
target_compile_definitions(moraine_torch INTERFACE USE_C10D_GLOO USE_DISTRIBUTED)
# CUDA and NCCL's process group, in a torch that has them.
if(MORAINE_CUDA)
  if(NOT EXISTS ${TORCH_INSTALL_PREFIX}/lib/libtorch_cuda.so)
    message(FATAL_ERROR "MORAINE_CUDA needs a CUDA torch; the one in ${TORCH_INSTALL_PREFIX} is for the CPU")
  endif()
  # pip lays CUDA's headers beside torch, all but those of its compiler (packages nvidia-cuda-crt and nvidia-cuda-cccl, or an
  # installed toolkit).
  set(nvidia ${TORCH_INSTALL_PREFIX}/../nvidia)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${nvidia}/nccl/include)
  find_path(CUDA_RUNTIME_INCLUDE_DIR cuda_runtime_api.h HINTS ${nvidia}/cu13/include /usr/local/cuda/include)
  find_path(CUDA_CRT_INCLUDE_DIR crt/host_config.h HINTS ${nvidia}/cu13/include /usr/local/cuda/include)
  find_path(CUDA_CCCL_INCLUDE_DIR nv/target HINTS ${nvidia}/cu13/include /usr/local/cuda/include)
  foreach(header NCCL CUDA_RUNTIME CUDA_CRT CUDA_CCCL)
    if(NOT ${header}_INCLUDE_DIR)
      message(FATAL_ERROR "MORAINE_CUDA needs nccl.h, cuda_runtime_api.h, crt/host_config.h and nv/target: pass -D${header}_INCLUDE_DIR=")
    endif()
    target_include_directories(moraine_torch SYSTEM INTERFACE ${${header}_INCLUDE_DIR})
  endforeach()
  target_compile_definitions(moraine_torch INTERFACE USE_C10D_NCCL)
  # torch_cuda registers CUDA's kernels when it is loaded, so it stays though nothing may name a symbol of it. CUDA's own libraries are
  # found by torch's at run time.
  target_link_libraries(moraine_torch INTERFACE -Wl,--no-as-needed torch_cuda -Wl,--as-needed c10_cuda)
  target_link_options(moraine_torch INTERFACE -Wl,--unresolved-symbols=ignore-in-shared-libs)
endif()
# torch's include folder brings an fmt of its own, without its library. Compiled into every file that formats, it costs five seconds a
# file, so the installed fmt comes first here as everywhere else.
get_target_property(fmt_include fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/installed_fmt)
file(CREATE_LINK ${fmt_include}/fmt ${CMAKE_BINARY_DIR}/installed_fmt/fmt SYMBOLIC)
target_include_directories(moraine_torch SYSTEM BEFORE INTERFACE ${CMAKE_BINARY_DIR}/installed_fmt)

file(WRITE ${CMAKE_BINARY_DIR}/pch.cpp "")
add_library(moraine_pch STATIC ${CMAKE_BINARY_DIR}/pch.cpp)
target_link_libraries(moraine_pch PUBLIC moraine_torch fmt::fmt nlohmann_json::nlohmann_json Threads::Threads)
target_compile_options(moraine_pch PRIVATE -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare)
target_precompile_headers(moraine_pch PRIVATE
  <algorithm> <array> <cstdint> <functional> <map> <memory> <optional> <span> <string> <string_view> <vector>
  <fmt/format.h> <fmt/ranges.h> <nlohmann/json.hpp>
  <ATen/ATen.h> <torch/csrc/autograd/custom_function.h> <torch/csrc/autograd/autograd.h>)
