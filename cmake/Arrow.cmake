# The imported target arrow::arrow: Arrow C++ and Parquet from the pyarrow of the Python that has torch. Without pyarrow
# ADEPT_ARROW is off, and the program refuses Parquet and Arrow files.
execute_process(
  COMMAND ${ADEPT_PYTHON} -c "import pyarrow; print(pyarrow.__version__); print(pyarrow.get_include()); print(pyarrow.get_library_dirs()[0])"
  OUTPUT_VARIABLE arrow_facts RESULT_VARIABLE arrow_status ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
set(ADEPT_ARROW OFF)
if(arrow_status EQUAL 0)
  string(REPLACE "\n" ";" arrow_facts "${arrow_facts}")
  list(GET arrow_facts 0 arrow_version)
  list(GET arrow_facts 1 arrow_include)
  list(GET arrow_facts 2 ADEPT_ARROW_LIBRARY_DIR)
  # By their full names: the wheel has no libarrow.so.
  file(GLOB arrow_libraries ${ADEPT_ARROW_LIBRARY_DIR}/libarrow.so.* ${ADEPT_ARROW_LIBRARY_DIR}/libparquet.so.*)
  list(LENGTH arrow_libraries num_arrow_libraries)
  if(num_arrow_libraries EQUAL 2 AND EXISTS ${arrow_include}/parquet/arrow/reader.h)
    set(ADEPT_ARROW ON)
    add_library(arrow::arrow INTERFACE IMPORTED)
    target_include_directories(arrow::arrow SYSTEM INTERFACE ${arrow_include})
    target_link_libraries(arrow::arrow INTERFACE ${arrow_libraries})
    target_link_options(arrow::arrow INTERFACE -Wl,-rpath,${ADEPT_ARROW_LIBRARY_DIR})
    message(STATUS "pyarrow ${arrow_version} in ${ADEPT_ARROW_LIBRARY_DIR}")
  endif()
endif()
if(NOT ADEPT_ARROW)
  message(STATUS "no pyarrow in ${ADEPT_PYTHON}: Parquet and Arrow files cannot be read")
endif()
