# What a backend needs to compile. Every check leaves one sentence in `problem`: what is missing and
# how to get it. Nothing found here is cached, so a mended machine only needs `cmake` again.

# Every backend: a C++17 compiler with its standard library.
function(sdistrib_check_compiler problem)
  set(${problem} "" PARENT_SCOPE)
  if(SDISTRIB_BACKEND STREQUAL "sycl" AND NOT CMAKE_CXX_COMPILER)
    return() # icpx compiles all of it
  endif()
  set(named "$ENV{CXX}")
  if(CMAKE_CXX_COMPILER)
    set(named "${CMAKE_CXX_COMPILER}")
  endif()
  separate_arguments(compiler UNIX_COMMAND "${named}")
  if(NOT compiler)
    find_program(found NAMES c++ g++ clang++ NO_CACHE)
    if(NOT found)
      set(${problem} "no C++ compiler found: apt install g++ (Debian, Ubuntu), dnf install gcc-c++ \
(Fedora), xcode-select --install (macOS), or name one with -DCMAKE_CXX_COMPILER=" PARENT_SCOPE)
      return()
    endif()
    set(compiler "${found}")
  endif()
  set(source "${PROJECT_BINARY_DIR}/CMakeFiles/sdistrib-check.cpp")
  file(WRITE "${source}" "#include <filesystem>\nint main() { return 0; }\n")
  execute_process(
    COMMAND ${compiler} -std=c++17 -fsyntax-only "${source}"
    RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
  set(SDISTRIB_CXX "${compiler}" PARENT_SCOPE)
  if(failed)
    list(JOIN compiler " " shown)
    set(${problem} "${shown} cannot compile C++17: install a newer one (apt install g++) or name one \
with -DCMAKE_CXX_COMPILER=" PARENT_SCOPE)
  endif()
endfunction()

# What the chosen backend needs beyond it.
function(sdistrib_check_accelerator problem)
  set(found_problem "")
  if(NOT SDISTRIB_BACKEND STREQUAL "cpu")
    cmake_language(CALL "sdistrib_check_${SDISTRIB_BACKEND}" found_problem)
  endif()
  set(${problem} "${found_problem}" PARENT_SCOPE)
  set(SDISTRIB_FOUND_ARGS "${SDISTRIB_FOUND_ARGS}" PARENT_SCOPE)
endfunction()

# The CUDA toolkit: nvcc and cuBLAS's header.
function(sdistrib_check_cuda problem)
  find_program(nvcc NAMES "${CMAKE_CUDA_COMPILER}" "$ENV{CUDACXX}" nvcc NO_CACHE
    HINTS "$ENV{CUDA_PATH}/bin" "$ENV{CUDA_HOME}/bin" /usr/local/cuda/bin)
  if(NOT nvcc)
    set(${problem} "SD_CUDA needs nvcc, which is not on PATH: install NVIDIA's CUDA toolkit (Debian, \
Ubuntu: apt install nvidia-cuda-toolkit), or name it with -DCMAKE_CUDA_COMPILER=" PARENT_SCOPE)
    return()
  endif()
  execute_process(
    COMMAND "${nvcc}" -x cu -E --compiler-options -w -include cublas_v2.h /dev/null
    RESULT_VARIABLE failed OUTPUT_QUIET ERROR_VARIABLE said)
  if(failed)
    string(REGEX REPLACE "\n.*" "" said "${said}")
    set(${problem} "${nvcc} cannot compile against cuBLAS (${said}): install the whole CUDA toolkit, \
with cuBLAS and a g++ it accepts (CUDAHOSTCXX names one)" PARENT_SCOPE)
  endif()
  set(args "-DCMAKE_CUDA_COMPILER=${nvcc}")
  # Else CMake may compile with this nvcc and link against another toolkit's libraries.
  get_filename_component(toolkit "${nvcc}/../.." ABSOLUTE)
  if(NOT CUDAToolkit_ROOT AND EXISTS "${toolkit}/include/cuda.h")
    list(APPEND args "-DCUDAToolkit_ROOT=${toolkit}")
  endif()
  set(SDISTRIB_FOUND_ARGS "${args}" PARENT_SCOPE)
endfunction()

# Headers new enough for ggml, the shader compiler and the loader.
function(sdistrib_check_vulkan problem)
  sdistrib_check_vulkan_headers(found_problem)
  if(found_problem)
    set(${problem} "${found_problem}" PARENT_SCOPE)
    return()
  endif()
  find_program(glslc NAMES "${Vulkan_GLSLC_EXECUTABLE}" glslc NO_CACHE HINTS "$ENV{VULKAN_SDK}/bin")
  # Without a language CMake does not know where libraries live; the linker does.
  execute_process(
    COMMAND ${SDISTRIB_CXX} -shared -o "${PROJECT_BINARY_DIR}/CMakeFiles/sdistrib-check.so"
            "-L$ENV{VULKAN_SDK}/lib" -lvulkan
    RESULT_VARIABLE no_loader OUTPUT_QUIET ERROR_QUIET)
  if(NOT glslc)
    set(missing "the shader compiler glslc" "glslc")
  elseif(no_loader AND NOT Vulkan_LIBRARY)
    set(missing "the Vulkan loader (libvulkan.so)" "libvulkan-dev")
  else()
    return()
  endif()
  list(GET missing 0 what)
  list(GET missing 1 package)
  set(${problem} "SD_VULKAN needs ${what}: apt install ${package} (Debian, Ubuntu), or install the \
Vulkan SDK and set VULKAN_SDK" PARENT_SCOPE)
endfunction()

# ggml uses vk::LayerSettingEXT and its like: headers of 1.4.309 or newer.
function(sdistrib_check_vulkan_headers problem)
  set(needed 1.4.309)
  set(remedy "get newer ones (the Vulkan SDK, Debian 13's libvulkan-dev, or the project \
Vulkan-Headers) and give their folder with -DVulkan_INCLUDE_DIR=DIR")
  set(folder "${Vulkan_INCLUDE_DIR}")
  if(NOT folder)
    find_path(folder_found NAMES vulkan/vulkan_core.h NO_CACHE HINTS "$ENV{VULKAN_SDK}/include")
    set(folder "${folder_found}")
  endif()
  if(NOT folder)
    set(${problem} "SD_VULKAN needs Vulkan's headers, ${needed} or newer, and found none: apt install \
libvulkan-dev glslc (Debian, Ubuntu); if those are older, ${remedy}" PARENT_SCOPE)
    return()
  elseif(NOT EXISTS "${folder}/vulkan/vulkan_core.h")
    set(${problem} "there is no vulkan/vulkan_core.h in ${folder}: ${remedy}" PARENT_SCOPE)
    return()
  endif()
  file(STRINGS "${folder}/vulkan/vulkan_core.h" lines
    REGEX "#define VK_HEADER_VERSION(_COMPLETE)? ")
  string(REGEX MATCH "VK_HEADER_VERSION ([0-9]+)" _ "${lines}")
  set(patch "${CMAKE_MATCH_1}")
  string(REGEX MATCH "VERSION\\([^0-9]*([0-9]+, *)?([0-9]+), *([0-9]+), *VK_" _ "${lines}")
  set(version "${CMAKE_MATCH_2}.${CMAKE_MATCH_3}.${patch}")
  if(version VERSION_LESS needed)
    set(${problem} "the Vulkan headers in ${folder} are ${version} and SD_VULKAN needs ${needed} or \
newer: ${remedy}" PARENT_SCOPE)
  endif()
endfunction()

# Intel's compiler, with oneAPI's environment loaded.
function(sdistrib_check_sycl problem)
  find_program(icpx NAMES icpx NO_CACHE)
  if(CMAKE_CXX_COMPILER)
    return()
  elseif(NOT icpx)
    set(${problem} "SD_SYCL needs Intel's compiler icpx, which is not on PATH: install the Intel \
oneAPI Base Toolkit, then load it: . /opt/intel/oneapi/setvars.sh" PARENT_SCOPE)
  elseif(NOT DEFINED ENV{MKLROOT})
    set(${problem} "SD_SYCL needs oneAPI's environment (oneMKL): load it: \
. /opt/intel/oneapi/setvars.sh" PARENT_SCOPE)
  endif()
endfunction()

# AMD's compiler and its two BLAS libraries.
function(sdistrib_check_hipblas problem)
  set(rocm "$ENV{ROCM_PATH}")
  if(NOT rocm)
    set(rocm /opt/rocm)
  endif()
  find_program(hipcc NAMES hipcc NO_CACHE HINTS "${rocm}/bin")
  find_path(hipblas NAMES hipblas/hipblas.h NO_CACHE HINTS "${rocm}/include")
  if(NOT hipcc)
    set(${problem} "SD_HIPBLAS needs AMD's compiler hipcc, which is neither on PATH nor in ${rocm}: \
install ROCm 6.1 or newer, or set ROCM_PATH" PARENT_SCOPE)
  elseif(NOT hipblas)
    set(${problem} "SD_HIPBLAS needs hipBLAS (hipblas/hipblas.h): install ROCm's hipblas-dev and \
rocblas-dev, or set ROCM_PATH" PARENT_SCOPE)
  endif()
endfunction()

# Metal is Apple's own.
function(sdistrib_check_metal problem)
  if(NOT CMAKE_HOST_APPLE)
    set(${problem} "SD_METAL is for macOS only, and this is ${CMAKE_HOST_SYSTEM_NAME}: leave it off \
for the CPU, or use -DSD_CUDA=ON, -DSD_VULKAN=ON, -DSD_SYCL=ON or -DSD_HIPBLAS=ON" PARENT_SCOPE)
  endif()
endfunction()
