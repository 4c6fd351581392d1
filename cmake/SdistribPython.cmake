# The Python whose environment gets the wheels.

# Sets SDISTRIB_TARGET_PYTHON: -DPython_EXECUTABLE, else the active environment's, else python3.
function(sdistrib_find_python problem)
  set(${problem} "" PARENT_SCOPE)
  set(python "${Python_EXECUTABLE}")
  if(NOT python AND DEFINED ENV{VIRTUAL_ENV})
    set(python "$ENV{VIRTUAL_ENV}/bin/python")
  elseif(NOT python)
    find_program(found NAMES python3 python NO_CACHE)
    set(python "${found}")
  endif()
  if(NOT python)
    set(${problem} "no python3 found: apt install python3 python3-venv (Debian, Ubuntu), or name one \
with -DPython_EXECUTABLE=" PARENT_SCOPE)
    return()
  endif()
  execute_process(
    COMMAND "${python}" -c "import sys; print('%d.%d' % sys.version_info[:2], sys.executable, sep=';')"
    RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(failed)
    set(${problem} "${python} does not run: name a Python 3.11 or newer with -DPython_EXECUTABLE="
        PARENT_SCOPE)
    return()
  endif()
  list(GET said 0 version)
  list(GET said 1 python)
  execute_process(COMMAND "${python}" -c "import venv, ensurepip" RESULT_VARIABLE failed ERROR_QUIET)
  if(version VERSION_LESS 3.11)
    set(${problem} "${python} is Python ${version} and sdistrib needs 3.11 or newer: name one with \
-DPython_EXECUTABLE=" PARENT_SCOPE)
  elseif(failed)
    set(${problem} "${python} cannot make virtual environments: apt install python3-venv (Debian, \
Ubuntu)" PARENT_SCOPE)
  endif()
  set(SDISTRIB_TARGET_PYTHON "${python}" PARENT_SCOPE)
endfunction()
