# The target adept_jinja: llama.cpp's Jinja engine, which renders chat templates, from the sources that
# scripts/fetch-jinja puts into .cache/jinja.
set(ADEPT_JINJA ${CMAKE_SOURCE_DIR}/.cache/jinja CACHE PATH "Sources of llama.cpp's Jinja engine")
if(NOT EXISTS ${ADEPT_JINJA}/jinja/runtime.h)
  message(FATAL_ERROR "${ADEPT_JINJA} has no jinja/runtime.h. Run scripts/fetch-jinja.")
endif()

# The engine includes the header of llama.cpp's own name for its JSON library; here that is nlohmann's.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/jinja/json.h @ONLY CONTENT
"#pragma once
#include <nlohmann/json.hpp>
using common_json = nlohmann::ordered_json;
")
add_library(adept_jinja STATIC ${ADEPT_JINJA}/unicode.cpp)
foreach(part lexer parser runtime string value)
  target_sources(adept_jinja PRIVATE ${ADEPT_JINJA}/jinja/${part}.cpp)
endforeach()
# Not PUBLIC: of our files one includes the engine, and no other is to be compiled with these folders.
set(ADEPT_JINJA_INCLUDES -isystem${ADEPT_JINJA} -isystem${CMAKE_BINARY_DIR}/generated/jinja)
target_compile_options(adept_jinja PRIVATE ${ADEPT_JINJA_INCLUDES})
target_link_libraries(adept_jinja PRIVATE nlohmann_json::nlohmann_json)
target_compile_options(adept_jinja PRIVATE -w ${ADEPT_CALLER_OPTIONS})
set_target_properties(adept_jinja PROPERTIES UNITY_BUILD OFF)  # its files have static functions of the same names
