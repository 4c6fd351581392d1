# `cmake --install` and `ctest`. The install itself is cmake/install.cmake.in.

configure_file(
  "${PROJECT_SOURCE_DIR}/cmake/install.cmake.in" "${PROJECT_BINARY_DIR}/sdistrib-install.cmake"
  @ONLY)
install(SCRIPT "${PROJECT_BINARY_DIR}/sdistrib-install.cmake")

# The tests use the build's own environment, so they need no install; nor do they disturb one.
enable_testing()
add_test(NAME wheels-install
  COMMAND "${SDISTRIB_BUILD_PYTHON}" tools/engine_install.py "@${SDISTRIB_OPTIONS}"
          --wheels "${SDISTRIB_WHEELS}"
  WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
add_test(NAME draws-on-${SDISTRIB_BACKEND}
  COMMAND "${SDISTRIB_BUILD_PYTHON}" tools/draw_once.py --backend "${SDISTRIB_BACKEND}"
          --models "${SDISTRIB_MODELS}" --output "${PROJECT_BINARY_DIR}/drawn.png"
  WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
set_tests_properties(wheels-install PROPERTIES FIXTURES_SETUP wheels TIMEOUT 3600)
set_tests_properties(draws-on-${SDISTRIB_BACKEND} PROPERTIES FIXTURES_REQUIRED wheels TIMEOUT 600)
