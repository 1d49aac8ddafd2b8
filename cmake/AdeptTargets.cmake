include(GoogleTest)

# What calls others that do the work is compiled at this level, in a third less time than at -O3.
set(ADEPT_CALLER_OPTIONS $<$<CONFIG:Release>:-O1>)

# adept_library(name [HOT] LINK target...): the static library adept_<name> of every .cpp in the calling folder and below.
# HOT: it has inner loops of its own.
function(adept_library name)
  cmake_parse_arguments(ARG "HOT" "" "LINK" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  if(sources)
    add_library(adept_${name} STATIC ${sources})
    target_include_directories(adept_${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_link_libraries(adept_${name} PUBLIC ${ARG_LINK} PRIVATE adept_warnings)
    if(NOT ARG_HOT)
      target_compile_options(adept_${name} PRIVATE ${ADEPT_CALLER_OPTIONS})
    endif()
  else()
    add_library(adept_${name} INTERFACE)
    target_link_libraries(adept_${name} INTERFACE ${ARG_LINK})
  endif()
endfunction()

# adept_test(name [SANITIZED] LINK target... [SOURCES file...]): the GoogleTest program test_<name> of
# tests/unit/<name>/*.cpp and these. The target unit_tests is all of them. A sanitizer build takes the tests as they were
# compiled in the build ADEPT_TEST_OBJECTS, and only the libraries under test anew, which saves a quarter of its compile time.
# SANITIZED: these tests too, because much of what they hand over is on the stack or a constant, whose bounds only the
# compiler knows.
add_custom_target(unit_tests)
# adept_test_objects(): call after every adept_test. Builds the objects that they take, before they are linked.
function(adept_test_objects)
  if(ADEPT_TEST_OBJECTS)
    get_property(objects GLOBAL PROPERTY ADEPT_TAKEN_OBJECTS)
    add_custom_target(test_objects COMMAND ${CMAKE_COMMAND} --build ${ADEPT_TEST_OBJECTS} --target unit_tests -- --quiet
                      BYPRODUCTS ${objects} COMMENT "Building the tests in ${ADEPT_TEST_OBJECTS}")
  endif()
endfunction()
function(adept_test name)
  cmake_parse_arguments(ARG "SANITIZED" "" "LINK;SOURCES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp)
  if(sources AND ADEPT_TEST_OBJECTS AND NOT ARG_SANITIZED)
    file(GLOB_RECURSE objects CONFIGURE_DEPENDS ${ADEPT_TEST_OBJECTS}/tests/unit/CMakeFiles/test_${name}.dir/*.o)
    if(NOT objects)
      message(FATAL_ERROR "${ADEPT_TEST_OBJECTS} has no objects of test_${name}. Run scripts/setup tests first.")
    endif()
    file(TOUCH ${CMAKE_CURRENT_BINARY_DIR}/empty.cpp)
    set(sources ${CMAKE_CURRENT_BINARY_DIR}/empty.cpp)
  else()
    list(APPEND sources ${ARG_SOURCES})
  endif()
  if(sources)
    add_executable(test_${name} ${sources})
    if(objects)
      set_property(TARGET test_${name} PROPERTY LINK_DEPENDS ${objects})
      set_property(GLOBAL APPEND PROPERTY ADEPT_TAKEN_OBJECTS ${objects})
      add_dependencies(test_${name} test_objects)
    endif()
    target_include_directories(test_${name} PRIVATE ${CMAKE_SOURCE_DIR})
    # Headers are most of the work: sources are joined.
    set_target_properties(test_${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
    # -O0 cuts the compile time of the tests by up to 40 %. The libraries under test stay optimised.
    target_compile_options(test_${name} PRIVATE -O0)
    if(ADEPT_SANITIZE)  # a quarter less compile time: the libraries read mapped files, and have lines in reports
      target_compile_options(test_${name} PRIVATE -fno-sanitize=alignment -g0)
    endif()
    # Objects come behind the libraries: of an inline function that both have, the linker keeps the first, which has the
    # sanitizers' checks.
    target_link_libraries(test_${name} PRIVATE ${ARG_LINK} ${objects} GTest::gmock GTest::gtest_main adept_warnings)
    add_test(NAME ${name} COMMAND test_${name})
    set_tests_properties(${name} PROPERTIES ENVIRONMENT XDG_CACHE_HOME=${CMAKE_BINARY_DIR}/cache)  # not the user's
    add_dependencies(unit_tests test_${name})
  endif()
endfunction()
