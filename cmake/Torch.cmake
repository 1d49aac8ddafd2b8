# The imported target torch::torch, from the Python that has torch: -DADEPT_PYTHON=..., else $ADEPT_PYTHON, else the
# project's .venv, else python3. A CPU or a CUDA build of torch will do, and no CUDA toolkit is needed: only ATen's
# device-independent headers are used, and linking torch_cuda is what registers the device.
if(NOT ADEPT_PYTHON)
  if(DEFINED ENV{ADEPT_PYTHON})
    set(ADEPT_PYTHON $ENV{ADEPT_PYTHON})
  elseif(EXISTS ${CMAKE_SOURCE_DIR}/.venv/bin/python)
    set(ADEPT_PYTHON ${CMAKE_SOURCE_DIR}/.venv/bin/python)
  else()
    set(ADEPT_PYTHON python3)
  endif()
endif()
set(ADEPT_PYTHON ${ADEPT_PYTHON} CACHE STRING "Python that has torch >= 2.10")

execute_process(
  COMMAND ${ADEPT_PYTHON} -c "import torch, os; print(torch.__version__); print(os.path.dirname(torch.__file__)); print(int(torch._C._GLIBCXX_USE_CXX11_ABI))"
  OUTPUT_VARIABLE torch_facts RESULT_VARIABLE torch_status ERROR_VARIABLE torch_error OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT torch_status EQUAL 0)
  message(FATAL_ERROR "${ADEPT_PYTHON} cannot import torch: ${torch_error}\nRun scripts/setup, or pass -DADEPT_PYTHON=/path/to/python that has torch >= 2.10.")
endif()
string(REPLACE "\n" ";" torch_facts "${torch_facts}")
list(GET torch_facts 0 ADEPT_TORCH_VERSION)
list(GET torch_facts 1 torch_dir)
list(GET torch_facts 2 torch_cxx11_abi)
if(ADEPT_TORCH_VERSION VERSION_LESS 2.10)
  message(FATAL_ERROR "torch ${ADEPT_TORCH_VERSION} in ${torch_dir} is too old: at least 2.10 is needed.")
endif()
message(STATUS "torch ${ADEPT_TORCH_VERSION} in ${torch_dir}")

add_library(torch::torch INTERFACE IMPORTED)
# After the system's folders: torch brings an fmt of its own, and spdlog needs the system's.
target_compile_options(torch::torch INTERFACE "SHELL:-idirafter ${torch_dir}/include" "SHELL:-idirafter ${torch_dir}/include/torch/csrc/api/include")
target_compile_definitions(torch::torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${torch_cxx11_abi} AT_PER_OPERATOR_HEADERS)
set(torch_libraries torch torch_cpu c10)
if(EXISTS ${torch_dir}/lib/libtorch_cuda.so)
  list(APPEND torch_libraries torch_cuda c10_cuda)
endif()
# at::parallel_for is serial without it. The runtime must be the one that torch brings, as two in one process would use
# each core twice; a torch that was built from source uses the system's.
target_compile_options(torch::torch INTERFACE -fopenmp)
file(GLOB torch_openmp ${torch_dir}/lib/libgomp*.so* ${torch_dir}/../torch.libs/libgomp*.so*)
list(APPEND torch_libraries ${torch_openmp})
if(NOT torch_openmp)
  list(APPEND torch_libraries gomp)
endif()
set(ADEPT_TORCH_LIBRARY_DIR ${torch_dir}/lib)
target_link_directories(torch::torch INTERFACE ${ADEPT_TORCH_LIBRARY_DIR})
# torch_cuda is used through registration alone, so the linker must not drop it.
target_link_options(torch::torch INTERFACE -Wl,--no-as-needed -Wl,-rpath,${ADEPT_TORCH_LIBRARY_DIR})
target_link_libraries(torch::torch INTERFACE ${torch_libraries})

# NCCL, for jobs of several GPUs: headers from the wheels that a CUDA torch depends on and two more (nvidia-cuda-crt,
# nvidia-cuda-cccl), or from a toolkit. Its code is in libtorch_cuda, or in a library that this loads. Nothing is cached,
# because another torch may be configured into the same build.
file(GLOB ADEPT_CUDA_INCLUDES ${torch_dir}/../nvidia/*/include ${torch_dir}/../nvidia/*/include/cccl)
list(APPEND ADEPT_CUDA_INCLUDES /usr/local/cuda/include)
set(ADEPT_NCCL OFF)
if(EXISTS ${torch_dir}/lib/libtorch_cuda.so)
  set(ADEPT_NCCL ON)
  foreach(header nccl.h cuda_runtime.h cusparse.h crt/host_config.h nv/target)
    unset(header_folder)
    find_path(header_folder ${header} HINTS ${ADEPT_CUDA_INCLUDES} NO_CACHE)
    if(NOT header_folder)
      message(STATUS "no ${header} beside torch: jobs of several GPUs need it (tools/torch-cuda.txt)")
      set(ADEPT_NCCL OFF)
    endif()
  endforeach()
endif()
message(STATUS "jobs of several GPUs, over NCCL: ${ADEPT_NCCL}")
