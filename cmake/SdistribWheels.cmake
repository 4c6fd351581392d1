# `cmake --build`: the engine's wheel and sdistrib's own, into build/wheels; and the tiny model that the
# picture after an install and ctest draw with.

set(SDISTRIB_WHEELS "${PROJECT_BINARY_DIR}/wheels")
set(SDISTRIB_MODELS "${PROJECT_BINARY_DIR}/models")
set(SDISTRIB_OPTIONS "${PROJECT_BINARY_DIR}/engine-options.txt")
set(constraints "${PROJECT_SOURCE_DIR}/constraints.txt")
sdistrib_write_engine_options("${SDISTRIB_OPTIONS}")

# The build has a Python environment of its own: the target's stays untouched until the install, and
# need not have pip. The file changes, and the environment is made anew, when the Python does.
set(environment "${PROJECT_BINARY_DIR}/pyenv")
set(SDISTRIB_BUILD_PYTHON "${environment}/bin/python")
set(python_named "${PROJECT_BINARY_DIR}/python.txt")
file(CONFIGURE OUTPUT "${python_named}" CONTENT "${SDISTRIB_TARGET_PYTHON}\n")
add_custom_command(
  OUTPUT "${environment}/.made"
  DEPENDS "${python_named}" "${constraints}"
  COMMAND "${SDISTRIB_TARGET_PYTHON}" -m venv --clear "${environment}"
  COMMAND "${SDISTRIB_BUILD_PYTHON}" -m pip install --quiet --disable-pip-version-check
          -c "${constraints}" numpy
  COMMAND "${CMAKE_COMMAND}" -E touch "${environment}/.made"
  COMMENT "sdistrib: a Python environment for the build"
  VERBATIM)

# Always runs: tools/engine_wheel.py knows whether there is anything to do.
add_custom_target(engine ALL
  COMMAND "${SDISTRIB_BUILD_PYTHON}" tools/engine_wheel.py "@${SDISTRIB_OPTIONS}"
          --wheel-dir "${SDISTRIB_WHEELS}"
  DEPENDS "${environment}/.made"
  WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
  COMMENT "sdistrib: the engine's wheel (${SDISTRIB_BACKEND})"
  USES_TERMINAL VERBATIM)

file(GLOB_RECURSE sources CONFIGURE_DEPENDS
  "${PROJECT_SOURCE_DIR}/sdistrib/*.py" "${PROJECT_SOURCE_DIR}/manager/*.py"
  "${PROJECT_SOURCE_DIR}/worker/*.py" "${PROJECT_SOURCE_DIR}/client/*.py")
set(stamp "${PROJECT_BINARY_DIR}/own-wheel.made")
add_custom_command(
  OUTPUT "${stamp}"
  DEPENDS "${environment}/.made" "${PROJECT_SOURCE_DIR}/pyproject.toml" ${sources}
  COMMAND "${SDISTRIB_BUILD_PYTHON}" -c
          "import glob, os, sys; [os.remove(old) for old in glob.glob(sys.argv[1])]"
          "${SDISTRIB_WHEELS}/sdistrib-*.whl"
  COMMAND "${SDISTRIB_BUILD_PYTHON}" -m pip wheel --quiet --disable-pip-version-check --no-deps
          --wheel-dir "${SDISTRIB_WHEELS}" "${PROJECT_SOURCE_DIR}"
  COMMAND "${CMAKE_COMMAND}" -E touch "${stamp}"
  COMMENT "sdistrib: its own wheel"
  VERBATIM)

file(GLOB makers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tools/tiny_models/*.py")
add_custom_command(
  OUTPUT "${SDISTRIB_MODELS}/.made"
  DEPENDS "${environment}/.made" ${makers}
  COMMAND "${SDISTRIB_BUILD_PYTHON}" -m tools.tiny_models "${SDISTRIB_MODELS}"
          --only stable-diffusion/tiny.safetensors
  COMMAND "${CMAKE_COMMAND}" -E touch "${SDISTRIB_MODELS}/.made"
  WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
  COMMENT "sdistrib: a tiny model to draw with"
  VERBATIM)

add_custom_target(own-wheel ALL DEPENDS "${stamp}" "${SDISTRIB_MODELS}/.made")
