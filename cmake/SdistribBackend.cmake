# Which accelerator is asked for, and which arguments its build gets.

# Sets SDISTRIB_BACKEND to the one SD_* option that is on, or cpu.
function(sdistrib_choose_backend problem)
  set(${problem} "" PARENT_SCOPE)
  set(asked "")
  foreach(backend IN ITEMS CUDA VULKAN SYCL HIPBLAS METAL)
    if(SD_${backend})
      list(APPEND asked "SD_${backend}")
    endif()
  endforeach()
  list(LENGTH asked count)
  if(count GREATER 1)
    list(JOIN asked " and " names)
    set(${problem} "one accelerator at a time, and ${names} are on: turn all but one OFF"
        PARENT_SCOPE)
    return()
  endif()
  if(count EQUAL 0)
    set(asked "SD_CPU")
  endif()
  string(REPLACE "SD_" "" name "${asked}")
  string(TOLOWER "${name}" name)
  set(SDISTRIB_BACKEND "${name}" PARENT_SCOPE)
endfunction()

# Writes FILE: the options of tools/engine_wheel.py, one a line. The engine's own CMake shall see
# SD_CMAKE_ARGS, and every variable of the families below: nothing here enables a language or calls
# find_package, so such a cache entry can only come from a person's -D or a preset.
function(sdistrib_write_engine_options file)
  set(families
    "^GGML_" "^Vulkan_" "^CUDA(Toolkit)?_" "^(AMD)?GPU_TARGETS$" "^SD_(FLASH|FAST|USE)_"
    "^CMAKE_(C|CXX|CUDA|HIP)_(COMPILER|FLAGS|ARCHITECTURES|HOST_COMPILER)")
  set(lines "--backend\n${SDISTRIB_BACKEND}\n")
  if(SD_PORTABLE)
    string(APPEND lines "--portable\n")
  endif()
  foreach(arg IN LISTS SDISTRIB_FOUND_ARGS SD_CMAKE_ARGS)
    string(APPEND lines "--cmake-arg=${arg}\n")
  endforeach()
  get_cmake_property(names CACHE_VARIABLES)
  foreach(name IN LISTS names)
    foreach(family IN LISTS families)
      if(name MATCHES "${family}")
        string(APPEND lines "--cmake-arg=-D${name}=${${name}}\n")
        break()
      endif()
    endforeach()
  endforeach()
  file(WRITE "${file}" "${lines}")
endfunction()
