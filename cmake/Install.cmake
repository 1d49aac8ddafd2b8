# cmake --install BUILD --prefix DIR: the program, which finds the libraries of the torch that it was built with; its
# completion for the shells, printed by the program itself; what it is and its licenses.
include(GNUInstallDirs)
set_target_properties(adept PROPERTIES INSTALL_RPATH ${ADEPT_TORCH_LIBRARY_DIR})
install(TARGETS adept RUNTIME)
install(FILES LICENSE README.md TYPE DOC)
install(FILES ${ADEPT_JINJA}/LICENSE TYPE DOC RENAME LICENSE.llama.cpp)

foreach(shell_and_file bash:bash-completion/completions/adept zsh:zsh/site-functions/_adept
                       fish:fish/vendor_completions.d/adept.fish)
  string(REPLACE ":" ";" shell_and_file ${shell_and_file})
  list(GET shell_and_file 0 shell)
  list(GET shell_and_file 1 file)
  install(CODE "execute_process(COMMAND \"$<TARGET_FILE:adept>\" completion ${shell}
    OUTPUT_FILE \"${CMAKE_BINARY_DIR}/completion.${shell}\" COMMAND_ERROR_IS_FATAL ANY)")
  get_filename_component(name ${file} NAME)
  get_filename_component(folder ${file} DIRECTORY)
  install(FILES ${CMAKE_BINARY_DIR}/completion.${shell} DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/${folder} RENAME ${name})
endforeach()
