# Compiler settings of our own code: every warning is an error; ccache and mold where they are installed.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(FATAL_ERROR "GCC ${CMAKE_CXX_COMPILER_VERSION} is too old: at least 12 is needed, as in CXX=g++-12.")
endif()

find_program(ADEPT_CCACHE ccache)
if(ADEPT_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ADEPT_CCACHE})
endif()
find_program(ADEPT_MOLD mold)
if(ADEPT_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

add_library(adept_warnings INTERFACE)
target_compile_options(adept_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Werror
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)  # GCC 12 reports std::string::insert (gcc.gnu.org/PR105329)
if(CMAKE_UNITY_BUILD)
  target_compile_options(adept_warnings INTERFACE -Wno-subobject-linkage)  # a .cpp counts as a header there
endif()

if(ADEPT_SANITIZE)
  # vptr checks take a fifth of the compile time. null checks are redundant, because AddressSanitizer reports the crash;
  # object-size checks do nothing at -O0.
  add_compile_options(-fsanitize=address,undefined -fno-sanitize=vptr,null,object-size -fno-sanitize-recover=undefined
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()
