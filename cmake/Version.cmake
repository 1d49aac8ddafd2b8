# What adept/core/version_info.h declares: the version, the commit and the libraries that this build was made of. Looked
# at in every build, because a commit does not configure again; written only when it changes.
set(ADEPT_VERSION_INFO
    -DSOURCE_DIR=${CMAKE_SOURCE_DIR} -DBINARY_DIR=${CMAKE_BINARY_DIR} -DPROJECT_VERSION=${PROJECT_VERSION}
    -DADEPT_TORCH_VERSION=${ADEPT_TORCH_VERSION} "-DADEPT_COMPILER=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
    -P ${CMAKE_SOURCE_DIR}/cmake/WriteVersion.cmake)
execute_process(COMMAND ${CMAKE_COMMAND} ${ADEPT_VERSION_INFO})
add_custom_target(adept_version COMMAND ${CMAKE_COMMAND} ${ADEPT_VERSION_INFO} VERBATIM
                  BYPRODUCTS ${CMAKE_BINARY_DIR}/generated/version_info.cpp COMMENT "Looking at the commit")
