# cmake --install BUILD --prefix DIR: the program, which finds the libraries of the torch that it was built with; its
# completion for the shells, printed by the program itself; what it is and its licenses.
include(GNUInstallDirs)
set_target_properties(adept PROPERTIES INSTALL_RPATH ${ADEPT_TORCH_LIBRARY_DIR})
install(TARGETS adept RUNTIME)
if(TARGET adept_arrow)
  set_target_properties(adept_arrow PROPERTIES INSTALL_RPATH ${ADEPT_ARROW_LIBRARY_DIR})
  install(TARGETS adept_arrow LIBRARY DESTINATION lib/adept)
endif()
install(FILES LICENSE README.md TYPE DOC)
install(FILES ${ADEPT_JINJA}/LICENSE TYPE DOC RENAME LICENSE.llama.cpp)

function(install_completion shell file)
  install(CODE "
    execute_process(COMMAND \"$<TARGET_FILE:adept>\" completion ${shell} OUTPUT_VARIABLE script COMMAND_ERROR_IS_FATAL ANY)
    set(file \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATAROOTDIR}/${file}\")
    message(STATUS \"Installing: \$ENV{DESTDIR}\${file}\")
    file(WRITE \"\$ENV{DESTDIR}\${file}\" \"\${script}\")
    list(APPEND CMAKE_INSTALL_MANIFEST_FILES \"\${file}\")")
endfunction()
install_completion(bash bash-completion/completions/adept)
install_completion(zsh zsh/site-functions/_adept)
install_completion(fish fish/vendor_completions.d/adept.fish)
